"""Rows to learn from are those that the role may read, and reading them changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from atoll.cli.training_rows import read_examples
from atoll.domain.errors import AtollError
from atoll.training.examples import Example
from support.fix_nodes import Node
from support.fix_postgres import APP_ROLE, OWNER

ROWS = "select prompt, answer from visit order by id"


@pytest.fixture
def address(node: Node) -> str:
    """Twenty rows of two shops; the role clerk may see those of one."""
    node.owner("create table public.visit (id int primary key, shop text, prompt text, answer text)")
    node.owner(
        "insert into public.visit select i, case when i % 2 = 0 then 'a' else 'b' end, 'ask ' || i, 'say ' || i from generate_series(1, 20) i"
    )
    node.owner("create table public.secret (prompt text, answer text)")
    node.owner(
        f"do $$ begin if to_regrole('clerk') is null then create role clerk; grant clerk to {APP_ROLE}; end if; end $$"
    )
    node.owner(
        f"grant select on public.visit to clerk, {APP_ROLE}; alter table public.visit enable row level security"
    )
    node.owner("create policy own on public.visit for select to clerk using (shop = 'a')")
    node.owner(
        f"create policy every on public.visit for select to {APP_ROLE} using (current_user = '{APP_ROLE}')"
    )
    return node.database.conninfo(APP_ROLE)


def test_row_security_holds_for_what_is_learned(address: str) -> None:
    assert len(read_examples(None, ROWS, None, address, None)) == 20
    seen = read_examples(None, ROWS, "clerk", address, None)
    assert [one.prompt for one in seen] == [f"ask {number}" for number in range(2, 21, 2)]


@pytest.mark.parametrize(
    ("sql", "role", "code"),
    [
        ("select prompt, answer from secret", None, "42501"),
        ("insert into visit values (99) returning prompt, answer", None, "42601"),
        (ROWS, OWNER, "42501"),
        ("select id as prompt from visit", None, "examples-malformed"),
        ("select prompt, answer from visit limit 3", None, "examples-few"),
        ("select prompt, answer from visit, generate_series(1, 6000)", None, "examples-many"),
        ("selec", None, "42601"),
    ],
)
def test_what_may_not_be_or_makes_no_sense_is_refused(
    address: str, sql: str, role: str | None, code: str
) -> None:
    with pytest.raises(AtollError) as caught:
        read_examples(None, sql, role, address, None)
    assert caught.value.code == code


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(AtollError) as caught:
        read_examples(None, ROWS, None, f"host={tmp_path}", None)
    assert caught.value.code == "database-away"


def test_a_file_has_lines_of_json_or_paragraphs(tmp_path: Path) -> None:
    lines, text = tmp_path / "rows.jsonl", tmp_path / "text.txt"
    lines.write_text("".join(json.dumps({"prompt": n, "answer": f"{n}!"}) + "\n\n" for n in range(9)))
    text.write_text("\n\n".join(f"paragraph {n}\nof two lines" for n in range(9)))
    assert read_examples(lines, None, None, None, None)[3] == Example("3", "3!")
    assert read_examples(text, None, None, None, None)[3] == Example("", "paragraph 3\nof two lines")
    lines.write_text("{not json}\n")
    with pytest.raises(AtollError, match="could not read"):
        read_examples(lines, None, None, None, None)
    with pytest.raises(typer.BadParameter):
        read_examples(lines, ROWS, None, None, None)
