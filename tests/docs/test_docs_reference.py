"""Reference pages and the program say the same: each thing that exists is documented, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer.main

from atoll.cli.app import program
from atoll.node.config import OPTIONS
from atoll.web.app import make_app
from docs import pages

SOURCE = pages.ROOT / "src" / "atoll"
FAMILIES = {"AtollError", "ConfigError", "LinkError", "DataError", "PolicyDenied", "kind", "family"}


@cache
def commands() -> dict[str, set[str]]:
    """Every command of the program with the names of its arguments and options."""
    found = {}
    for name, command in _flat(typer.main.get_command(program())):
        names: set[str] = set()
        for parameter in command.params:
            is_option = any(opt.startswith("-") for opt in parameter.opts)
            names |= set(parameter.opts) if is_option else {parameter.name}
        found[name] = names - {"--help"}
    return found


def _flat(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Commands by their full names; those of a group are `model add` and the like."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _flat(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_command_is_documented_and_no_other() -> None:
    text = pages.read("docs/cli.md")
    documented = re.findall(r"^## `atoll ([\w-]+(?: \w+)?)`$", text, re.MULTILINE)
    assert sorted(documented) == sorted(commands())


@pytest.mark.parametrize("name", commands())
def test_a_command_has_the_options_that_its_section_names(name: str) -> None:
    assert set(pages.first_cells(pages.read("docs/cli.md"), f"## `atoll {name}`")) == commands()[name]


def test_settings_are_those_of_the_page() -> None:
    rows = [
        f"| `{option.key}` | {f'`{option.default}`' if option.default else ''} | `{option.flag}` "
        f"| `{option.variable}` | {option.help} |"
        for option in OPTIONS
    ]
    table = "| key | default | flag | variable | meaning |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    assert table in pages.read("docs/settings.md"), f"docs/settings.md should hold:\n{table}"


def _constants(node: ast.expr) -> Iterator[str]:
    """The texts that an expression can be, as far as they are written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _constants(node.body)
        yield from _constants(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _constants(value)
    elif isinstance(node, ast.Tuple) and node.elts:
        yield from _constants(node.elts[0])


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def raised_in_python() -> tuple[set[str], set[str]]:
    """The codes of errors, and the reasons for refusals."""
    codes: set[str] = set()
    reasons: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                codes |= set(_constants(node.args[0])) if _called(node) in FAMILIES else set()
                reasons |= set(_constants(node.args[0])) if _called(node) == "refuse" else set()
            elif isinstance(node, ast.FunctionDef) and node.name == "explain_handshake":
                returns = [
                    r.value for r in ast.walk(node) if isinstance(r, ast.Return) and r.value is not None
                ]
                reasons |= {code for value in returns for code in _constants(value)}
    return codes, reasons


def raised_in_sql() -> set[str]:
    texts = [file.read_text("utf-8") for file in (SOURCE / "sql").rglob("*.sql")]
    return {
        code for text in texts for code in re.findall(r"atoll\.(?:refuse|park)\((?:c, )?'([a-z-]+)'", text)
    }


def test_every_error_is_documented_and_no_other() -> None:
    page = pages.read("docs/errors.md")
    reasons_heading = "## Reasons for which connections are refused"
    documented = pages.first_cells(page.split(reasons_heading)[0])
    codes, reasons = raised_in_python()
    assert sorted(documented) == sorted(set(documented)), "a code is documented twice"
    assert set(documented) == codes | raised_in_sql()
    assert set(pages.first_cells(page, reasons_heading)) == reasons - codes


def test_the_source_has_errors_to_compare() -> None:
    codes, reasons = raised_in_python()
    assert {"home-in-use", "token-expired", "port-in-use", "listen-failed"} <= codes
    assert {"crowded", "deadline", "startup"} <= reasons
    assert {"key-serial", "stamp-in-future", "feed-unknown"} <= raised_in_sql()


def test_the_pages_name_every_http_path() -> None:
    from prometheus_client import CollectorRegistry

    paths = {route.path for route in make_app(dict, CollectorRegistry()).routes}  # type: ignore[attr-defined]
    named = set(re.findall(r"`GET (/\w+)`", pages.read("docs/metrics.md")))
    assert named == paths


def files_named(text: str) -> list[str]:
    return re.findall(r"`((?:\w+/)+\w+\.(?:py|sql))`", text)


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_source_files_that_a_page_names_exist(page: str) -> None:
    named = files_named(pages.read(page))
    missing = [name for name in named if not (SOURCE / name).exists() and not (pages.ROOT / name).exists()]
    assert not missing


def test_the_steps_of_a_subscription_are_those_that_are_drawn() -> None:
    from atoll.data.replication.steps import Step

    text = pages.section(pages.read("docs/states.md"), "## Receiving from a peer")
    assert pages.first_cells(text) == [step.name for step in Step]
