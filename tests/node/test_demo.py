"""`atoll demo` as a person or a machine runs it: it proves what it shows, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atoll.node.postgres.leftover import processes_in
from support.fix_home import (
    DEADLINE_SECONDS,
    MYSELF,
    RunningNode,
    atoll,
    atoll_command,
    clean_environment,
    eventually,
)

DemoStarter = Callable[..., RunningNode]


@pytest.fixture
def start_demo(open_folder: Path) -> Iterator[DemoStarter]:
    """Starts `atoll demo` without a terminal, its temporary folder inside of the test's."""
    started: list[RunningNode] = []

    def start(*flags: str) -> RunningNode:
        process = subprocess.Popen(
            atoll_command(MYSELF, ("demo", "--writes", "15", "--seconds", "2", *flags)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=clean_environment() | {"TMPDIR": str(open_folder), "FORCE_COLOR": "1"},
            cwd="/",
        )
        started.append(RunningNode(open_folder, process))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.wait(DEADLINE_SECONDS)
        if demo.process.stdout is not None:
            demo.process.stdout.close()


def servers(folder: Path) -> list[int]:
    return [pid for data in folder.glob("**/data") for pid in processes_in(data)]


@pytest.mark.slow
@pytest.mark.mesh
def test_a_demo_without_a_terminal_proves_that_all_nodes_have_all_rows_and_leaves_nothing(
    start_demo: DemoStarter, open_folder: Path
) -> None:
    demo = start_demo("--no-wait")
    demo.wait_for("Osaka's cables are cut")
    demo.wait_for("Osaka answers from its own document backup-version")
    demo.wait_for("The cables are mended")
    demo.wait_for("every row is the same on all three nodes")
    assert demo.wait() == 0, demo.output
    assert "they have converged" in demo.output
    assert len(re.findall(r"(?m)(\d+) rows, the same on every node", demo.output)) == 3
    assert len(re.findall(r"(?m)^.{11}kept: ", demo.output)) == 8, demo.output
    assert re.search(r"lisbon [1-9]\d*, nairobi [1-9]\d*, osaka [1-9]\d* writes", demo.output)
    decided = re.findall(r"(bearing|digits|pebble) +(\d+) \w+ +(\d+) right", demo.output)
    assert [model for model, _, _ in decided] == ["bearing", "digits", "pebble"], demo.output
    assert all(int(right) > 0.8 * int(rows) for _, rows, right in decided), demo.output
    # The two prices that were set while neither site could know of the other.
    assert re.search(r"The price of figs: 2\.75 by lisbon stays\. 3\.10 by osaka", demo.output), demo.output
    assert 'are left, at 2.75. Tags that two sites set: "local, organic".' in demo.output
    assert "\x1b" not in demo.output
    assert list(open_folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.mesh
def test_a_demo_that_stays_up_answers_and_ends_with_ctrl_c_and_keeps_the_homes_it_was_given(
    start_demo: DemoStarter, open_folder: Path
) -> None:
    homes = open_folder / "kept"
    demo = start_demo("--home", str(homes))
    demo.wait_for("Result .*they have converged")
    demo.wait_for("atoll check --home")
    osaka = ("--home", str(homes / "osaka"))
    atoll("sql", *osaka, "-c", "update stock set price = 9.99 where item = 'figs'")
    at_lisbon = ("sql", "--home", str(homes / "lisbon"), "-c", "select price from stock where item = 'figs'")
    eventually(lambda: "9.99" in atoll(*at_lisbon).stdout, "Lisbon has what was written on Osaka")
    assert demo.end(signal.SIGINT) == 0, demo.output
    assert servers(open_folder) == []
    settings = (homes / "osaka" / "atoll.toml").read_text()
    assert 'name = "osaka"' in settings
    # The weather between the nodes is gone, so a kept home must not dial it.
    assert "\n[dial]" not in settings
    refused = atoll("demo", "--no-wait", "--home", str(homes))
    assert refused.returncode == 1
    assert f"{homes} is not an empty folder" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_while_it_builds_leaves_no_process_and_no_folder(
    start_demo: DemoStarter, open_folder: Path, sign: signal.Signals
) -> None:
    demo = start_demo()
    demo.wait_for("Lisbon invites")
    found = servers(open_folder)
    assert found
    assert demo.end(sign) == 130, demo.output
    assert servers(open_folder) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)
    assert list(open_folder.iterdir()) == []


def test_a_demo_does_not_build_in_a_folder_that_has_something_in_it(open_folder: Path) -> None:
    (open_folder / "mine.txt").write_text("mine")
    refused = atoll("demo", "--no-wait", "--home", str(open_folder))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {open_folder} is not an empty folder\n")
    assert [path.name for path in open_folder.iterdir()] == ["mine.txt"]
