"""Bad input to each command: refused with a message, a hint or a detail, and a code; nothing is changed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from atoll.identity import token as tokens
from atoll.identity.token import Token
from support.fix_home import NodeStarter, atoll

FOREIGN = tokens.encode(
    Token(
        "0" * 8 + "-0000-4000-8000-" + "0" * 12,
        "ab" * 32,
        ("127.0.0.1:1",),
        "x",
        "s",
        int(time.time()) + 3600,
    )
)
EXPIRED = tokens.encode(
    Token("0" * 8 + "-0000-4000-8000-" + "0" * 12, "ab" * 32, ("127.0.0.1:1",), "x", "s", 1)
)

# What is asked of a running node, what it says, and the code.
CASES = [
    (("up", "--name", "Not A Name"), "invalid name", "config-invalid"),
    (("up", "--tier", "cellar"), "invalid tier", "config-invalid"),
    (("up", "--http", "nowhere"), "invalid http", "config-invalid"),
    (("up", "--wal-keep", "much"), "invalid wal_keep", "config-invalid"),
    (("invite", "--expires", "soon"), "invalid expires", "config-invalid"),
    (("invite", "--expires", "0s"), "invalid expires", "config-invalid"),
    (("invite", "--tier", "cellar"), "invalid tier", "config-invalid"),
    (("invite", "--name", "first"), 'called "first"', "name-taken"),
    (("share", "nothing"), "table nothing does not exist", "table-missing"),
    (("share", "plain"), "has no primary key", "key-missing"),
    (("share", "counted"), "its key is a serial", "key-serial"),
    (("share", "good", "--merge", "words=counter"), "cannot count column", "policy-type"),
    (("share", "good", "--merge", "words=sometimes"), "does not exist", "policy-unknown"),
    (("share", "good", "--merge", "gone=max"), 'column "gone" does not exist', "column-missing"),
    (("share", "good", "--append", "--merge", "words=max"), "do not change", "append-merges-nothing"),
    (("unshare", "good"), "is not shared", "table-not-shared"),
    (("check", "good"), "is not shared", "table-not-shared"),
    (("revert", "999"), "conflict 999 does not exist", "conflict-unknown"),
    (("revoke", "nobody", "--yes"), 'no node "nobody"', "node-unknown"),
    (("revoke", "first", "--yes"), "cannot revoke itself", "node-itself"),
]


@pytest.mark.slow
def test_each_command_refuses_bad_input_with_a_code_and_a_hint(
    start_node: NodeStarter, home_folder: Path
) -> None:
    node = start_node("--name", "first", "--link", "127.0.0.1:0", "--advertise", "127.0.0.1:9")
    node.sql("create table plain (a int); create table counted (id serial primary key)")
    node.sql("create table good (id bigint primary key, words text)")
    for (command, *arguments), said, code in CASES:
        home = home_folder.with_name("other") if command == "up" else home_folder
        refused = atoll(command, *arguments, "--home", str(home))
        case = f"atoll {command} {' '.join(arguments)}: {refused.stderr}"
        assert refused.returncode == 1, case
        assert refused.stdout == "", case
        first, *others = refused.stderr.splitlines()
        assert first.startswith("error: "), case
        assert said in first, case
        assert not first.endswith("."), case
        assert others[-1] == f"code: {code}", case
        assert any(line.startswith(("hint: ", "detail: ")) for line in others), case
    assert not home_folder.with_name("other").exists(), "a refused node leaves no home"
    assert "no table is shared" in atoll("tables", "--home", str(home_folder)).stdout


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("not-a-token", "token-invalid"),
        (FOREIGN[:-9], "token-damaged"),
        (EXPIRED, "token-expired"),
        (FOREIGN, "dial-failed"),
    ],
)
def test_a_token_that_does_not_serve_leaves_nothing_behind(home_folder: Path, line: str, code: str) -> None:
    refused = atoll("join", line, "--home", str(home_folder), "--link", "off", "--http", "off")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == f"code: {code}"
    assert not home_folder.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("share",),
        ("share", "t", "--merge", "qty"),
        ("conflicts", "-n", "0"),
        ("sql", "file.sql", "-c", "select 1"),
        ("frobnicate",),
        ("up", "--no-such-flag"),
    ],
)
def test_a_mistake_in_the_command_line_is_usage(home_folder: Path, arguments: tuple[str, ...]) -> None:
    refused = (
        atoll(*arguments, "--home", str(home_folder)) if arguments[0] != "frobnicate" else atoll(*arguments)
    )
    assert refused.returncode == 2
    assert "Usage: atoll" in refused.stderr
