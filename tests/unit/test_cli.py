"""The command line as a whole: quick to load, and errors in words."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from atoll.cli import app as cli
from atoll.domain.errors import ConfigError, LinkError

HEAVY = ("psycopg", "uvicorn", "starlette", "cryptography", "prometheus_client", "atoll.node.process")
EXPLAINED = "error: no home\ndetail: It is away.\nhint: Make one.\ncode: c\n"
LIST_LOADED = "import sys, {}; print(*sys.modules)"


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", LIST_LOADED.format(module)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    loaded = loaded_by("atoll.cli.app; atoll.cli.app.program()")
    assert "atoll.cli.model" in loaded
    assert not loaded & set(HEAVY)


def test_a_command_loads_no_other() -> None:
    loaded = loaded_by("atoll.cli.app; atoll.cli.app.program('check')")
    assert "atoll.cli.check" in loaded
    assert not loaded & {*HEAVY, "atoll.cli.model", "atoll.cli.pipeline"}


def test_every_command_is_there_by_its_name() -> None:
    for name in cli.COMMANDS:
        (one,) = (*(app := cli.program(name)).registered_commands, *app.registered_groups)
        assert one.name == name
    everything = cli.program("no-such-command")
    found = [one.name for one in (*everything.registered_commands, *everything.registered_groups)]
    assert sorted(found) == sorted(cli.COMMANDS)


def test_a_node_without_work_for_models_loads_none_of_what_they_take() -> None:
    loaded = loaded_by("atoll.node.process")
    assert "starlette" in loaded
    assert not loaded & {"numpy", "onnxruntime", "aiohttp", "xllamacpp", "torch"}


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ConfigError("c", "no home", detail="It is away.", hint="Make one."), 1, EXPLAINED),
        (LinkError("l", "peer is away"), 1, "error: peer is away\ncode: l\n"),
        (
            ExceptionGroup("tasks", [ExceptionGroup("inner", [LinkError("l", "wet")])]),
            1,
            "error: wet\ncode: l\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_an_error_becomes_words_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(*_: object, **options: str) -> None:
        raise raised

    monkeypatch.setattr(typer.Typer, "__call__", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **options: str) -> None:
        raise ExceptionGroup("tasks", [ZeroDivisionError()])

    monkeypatch.setattr(typer.Typer, "__call__", fail)
    with pytest.raises(ExceptionGroup):
        cli.main()
