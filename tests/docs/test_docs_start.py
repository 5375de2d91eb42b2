"""The README's two nodes, made as a reader makes them; and what needs two nodes: examples, metrics.

The blocks run as they are printed, but for three things: homes are in a folder of the test, ports are free
ones, and the environment is the one that runs the test, so `make` is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.demo.ports import free_ports
from atoll.node.postgres.leftover import processes_in
from docs import pages
from support.fix_home import DEADLINE_SECONDS, RunningNode, clean_environment, eventually

pytestmark = pytest.mark.slow
README = pages.read("README.md")
GET_IT = 'make .venv\nexport PATH="$PWD/.venv/bin:$PATH"\n'


@dataclass
class Reader:
    """Somebody who types what the README says."""

    folder: Path
    ports: dict[str, int]
    nodes: list[RunningNode]
    printed: str = ""

    @property
    def environment(self) -> dict[str, str]:
        own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return clean_environment() | {"PATH": own, "HOME": str(self.folder)}

    def adapted(self, block: str) -> str:
        text = block.replace("/tmp/", f"{self.folder}/").replace("\natoll up", "\nexec atoll up")
        for printed, free in self.ports.items():
            text = text.replace(f":{printed}", f":{free}")
        return f"set -eu\n{text}"

    def type(self, block: str) -> None:
        if "atoll up" in block:
            self._start(block)
        else:
            answer = self.run(["bash", "-c", self.adapted(block)])
            assert answer.returncode == 0, answer.stdout + answer.stderr
            self.printed += answer.stdout

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            env=self.environment | environment,
            cwd=pages.ROOT,
        )

    def _start(self, block: str) -> None:
        home = re.search(r"atoll up --home /tmp/(\w+)", block)
        assert home, block
        defaults = {
            "ATOLL_HTTP": f"127.0.0.1:{self.ports['8600']}",
            "ATOLL_LINK": f"127.0.0.1:{self.ports['7600']}",
        }
        process = subprocess.Popen(
            ["bash", "-c", self.adapted(block)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.environment | ({} if self.nodes else defaults),
        )
        node = RunningNode(self.folder / home[1], process)
        self.nodes.append(node)
        node.wait_for("^READY")

    def dsn(self, node: int) -> str:
        answer = self.run(["atoll", "dsn", "--home", str(self.nodes[node].home)])
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """A reader who has typed all of it, and left the nodes running."""
    folder = Path(tempfile.mkdtemp(prefix="atoll-readme-", dir="/tmp"))
    folder.chmod(0o711)
    ports = dict(zip(("7600", "8600", "7601", "8601"), free_ports(4), strict=True))
    found = Reader(folder, ports, [])
    text = re.search(r"<!-- two nodes.*?<!-- end of two nodes -->", README, re.DOTALL)
    assert text
    first, *others = [block.text for block in pages.blocks(text[0]) if block.language == "sh"]
    try:
        assert first == GET_IT
        for block in others:
            found.type(block)
        yield found
    finally:
        for node in found.nodes:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in found.nodes:
            node.wait()
            assert node.process.stdout is not None
            node.process.stdout.close()
            for pid in processes_in(node.home / "data"):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_two_nodes_of_the_readme_show_what_it_says(reader: Reader) -> None:
    assert re.search(r"public\.stock +1 rows +same", reader.printed)
    assert "compared on 2 nodes: lisbon, nairobi" in reader.printed
    assert re.search(r"1 \| rope \| +12 \| +4\.75 \|", reader.printed)


def test_the_readmes_application_finds_the_node(reader: Reader) -> None:
    program = next(block.text for block in pages.blocks(README) if block.language == "python")
    before = _quantity(reader)
    answer = reader.run([sys.executable, "-c", program], ATOLL_HOME=str(reader.nodes[0].home))
    assert answer.returncode == 0, answer.stderr
    assert _quantity(reader) == before - 1


def test_rows_become_decisions_as_the_readme_shows(reader: Reader) -> None:
    text = README.partition("<!-- decisions")[2]
    reader.type(next(block.text for block in pages.blocks(text) if block.language == "sh"))
    query = "copy (select label, sum(n) from fault_1min group by 1 order by 1) to stdout"
    far = ["atoll", "sql", "--home", str(reader.nodes[1].home), "-c"]
    eventually(
        lambda: reader.run([*far, query]).stdout == "imbalance\t1\nnormal\t3\n", "decisions of four presses"
    )
    assert reader.run([*far, "copy (select count(*) from vibration) to stdout"]).stdout == "0\n"


def test_a_route_leads_here_as_the_readme_shows(reader: Reader) -> None:
    text = README.partition("<!-- routes")[2]
    reader.printed = ""
    reader.type(next(block.text for block in pages.blocks(text) if block.language == "sh"))
    assert "equal receipts mean equal data" in reader.printed
    assert re.search(r"1 +here +pebble", reader.printed), reader.printed


def _quantity(reader: Reader) -> int:
    query = "copy (select qty from stock where id = 1) to stdout"
    answer = reader.run(["atoll", "sql", "--home", str(reader.nodes[0].home), "-c", query])
    return int(answer.stdout)


def test_both_shops_of_the_example_sell_from_one_stock(reader: Reader) -> None:
    program = str(pages.ROOT / "examples" / "two_shops.py")
    answer = reader.run([sys.executable, program, reader.dsn(0), reader.dsn(1)])
    assert (answer.returncode, answer.stdout) == (0, "both shops have 3 left\n"), answer.stderr


def test_the_example_that_follows_goes_on_where_it_stopped(reader: Reader) -> None:
    dsn, home = reader.dsn(0), str(reader.nodes[0].home)
    statements = (
        "create table visit (id int primary key, who text)",
        "select atoll.share('visit')",
        "select atoll.open_feed('follow-visit', '{visit}')",
    )
    options = [part for statement in statements for part in ("-c", statement)]
    made = reader.run(["atoll", "sql", "--home", home, *options])
    assert made.returncode == 0, made.stderr
    program = [sys.executable, str(pages.ROOT / "examples" / "follow_changes.py"), dsn, "visit", "1"]
    for number, who in ((1, "ana"), (2, "ben")):
        reader.run(["atoll", "sql", "--home", home, "-c", f"insert into visit values ({number}, '{who}')"])
        answer = reader.run(program)
        assert answer.stdout == f"new     node 1  id={number} who={who}\n", answer.stderr


def test_metrics_are_those_of_the_page(reader: Reader) -> None:
    documented = set(pages.first_cells(pages.read("docs/metrics.md"), "## Metrics"))
    node = reader.nodes[0]

    def told() -> set[str]:
        families = re.findall(r"^# HELP (\w+) ", node.get("/metrics")[1], re.MULTILINE)
        return set(families)

    eventually(lambda: documented <= told(), "all documented metrics")
    assert told() == documented
    for name, about in re.findall(r"^# HELP (\w+) (.+)$", node.get("/metrics")[1], re.MULTILINE):
        row = re.search(rf"^\| `{name}` \|.*\| (.+) \|$", pages.read("docs/metrics.md"), re.MULTILINE)
        assert row
        assert re.sub(r"\[(.+?)\]\(.+?\)", r"\1", row[1]) == about
