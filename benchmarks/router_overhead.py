"""What does it cost to have a node between a program and a model's server, and what LiteLLM's proxy?

Both stand before the same server, which answers at once from this machine; callers ask it directly, a node by
the name of a model and by that of a route, and LiteLLM, in rounds in which each comes first in turn. So do
they ask a relay that hands bytes on and looks at none, the least that asyncio can put there. LiteLLM goes
into an environment of its own below build/, has one worker as a node has, and neither database, logs nor
callbacks; where it cannot be installed the run goes on without it. A node is PostgreSQL and replication,
too: their processor time and memory are told apart.

    python benchmarks/router_overhead.py [--rounds 5] [--seconds 2] [--without-litellm]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from idle_node import memory_bytes
from support import nodes, others, relay, report, upstream
from support.callers import Heard, Question, ask

LITELLM = "litellm[proxy]==1.106.12"
ADDED_MS_WANTED, CPU_MS_WANTED, CHUNK_MS_WANTED, MEGABYTES_WANTED = 0.5, 0.3, 0.02, 80.0
READY_SECONDS_MAX = 90.0
WORDS, WORDS_ALONE = 128, 512  # of a stream; in the second each is paid for, and next to nothing else
RELAY = "relay"
NODE_WAYS = {"node, by model": "far", "node, by route": "led"}
LITELLM_SETTINGS = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is fetched
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # a node asks for none on loopback, either
}
LOADS: Mapping[str, tuple[Question, int]] = {
    "an answer of one word, 1 caller": (Question(), 1),
    "an answer of one word, 16 callers": (Question(), 16),
    "an answer of one word, 64 callers": (Question(), 64),
    f"a stream of {WORDS} words at once, 4 callers": (Question(WORDS, True), 4),
    f"a stream of {WORDS_ALONE} words one by one, 16 callers": (Question(WORDS_ALONE, True, True), 16),
}
ALONE, STREAMS = next(iter(LOADS)), list(LOADS)[3:]


@dataclass(frozen=True)
class Way:
    """Where is asked, for what, and whose processor time counts."""

    port: int
    model: str
    pids: tuple[int, ...]  # of the proxy
    beside: tuple[int, ...] = ()  # of what it brings along


@dataclass(frozen=True)
class Outcome:
    heard: Heard
    cpu_seconds: float
    cpu_seconds_beside: float

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.heard.answers) * 1000

    @property
    def p95_ms(self) -> float:
        return report.percentile(self.heard.answers, 0.95) * 1000

    @property
    def cpu_ms(self) -> float:
        """For each request."""
        return self.cpu_seconds / len(self.heard.answers) * 1000


Found = dict[str, dict[str, list[Outcome]]]  # by load and way, one for each round


def cpu_of(pids: tuple[int, ...]) -> float:
    return sum(map(nodes.cpu_seconds, pids))


async def measure(way: Way, question: Question, callers: int, seconds: float) -> Outcome:
    await ask(way.port, way.model, question, callers, 0.2)
    own, beside = cpu_of(way.pids), cpu_of(way.beside)
    heard = await ask(way.port, way.model, question, callers, seconds)
    return Outcome(heard, cpu_of(way.pids) - own, cpu_of(way.beside) - beside)


@asynccontextmanager
async def the_node(folder: Path, behind: int) -> AsyncIterator[dict[str, Way]]:
    port = others.free_port()
    async with nodes.node(folder / "node", "--http", f"127.0.0.1:{port}", "--link", "off") as node:
        home = ("--home", str(node.home))
        terms = ("--region", "eu", "--price-in", "1", "--price-out", "1", *home)
        source = f"upstream:http://127.0.0.1:{behind}/v1"
        await nodes.command("model", "add", source, "--model", upstream.NAME, "--name", "far", *terms)
        await nodes.command("route", "set", "led", "--model", "cloud=far", "--prefer", "cloud", *home)
        own = node.process.pid
        for model in NODE_WAYS.values():
            await until_ready(port, model)
        beside = tuple(pid for pid in node.processes() if pid != own)
        yield {name: Way(port, model, (own,), beside) for name, model in NODE_WAYS.items()}


@asynccontextmanager
async def litellm(folder: Path, behind: int) -> AsyncIterator[dict[str, Way]]:
    try:
        program = await asyncio.to_thread(others.install, "litellm", "litellm", [LITELLM])
    except subprocess.CalledProcessError:
        print(f"LiteLLM   is not measured: {LITELLM} could not be installed", flush=True)
        yield {}
        return
    told = {
        "model": f"openai/{upstream.NAME}",
        "api_key": "none",
        "api_base": f"http://127.0.0.1:{behind}/v1",
    }
    config = {"model_list": [{"model_name": "far", "litellm_params": told}]}
    (folder / "litellm.yaml").write_text(json.dumps(config))
    port, log = others.free_port(), folder / "litellm.log"
    flags = ["--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--num_workers", "1"]
    with others.process(
        [str(program), *flags, "--port", str(port), "--telemetry", "False"], log, LITELLM_SETTINGS
    ) as group:
        await until_ready(port, "far", log)
        yield {"LiteLLM": Way(port, "far", tuple(others.members(group)))}


async def until_ready(port: int, model: str, log: Path | None = None) -> None:
    end = asyncio.get_running_loop().time() + READY_SECONDS_MAX
    while True:
        try:
            await ask(port, model, Question(), 1, 0)
            return
        except (OSError, RuntimeError) as error:
            if asyncio.get_running_loop().time() > end:
                said = await asyncio.to_thread(log.read_text) if log is not None else ""
                raise SystemExit(f"it was not ready in time: {error}\n{said[-3000:]}") from error
            await asyncio.sleep(0.2)


async def compare(folder: Path, given: argparse.Namespace) -> tuple[Found, dict[str, tuple[float, float]]]:
    behind = others.free_port()
    found: Found = {load: {} for load in LOADS}
    async with AsyncExitStack() as stack:
        command = [sys.executable, upstream.__file__, str(behind)]
        group = stack.enter_context(others.process(command, folder / "upstream.log"))
        await until_ready(behind, upstream.NAME)
        ways = {"direct": Way(behind, upstream.NAME, (group,))}
        port = others.free_port()
        command = [sys.executable, relay.__file__, str(port), str(behind)]
        group = stack.enter_context(others.process(command, folder / "relay.log"))
        await until_ready(port, upstream.NAME)
        ways[RELAY] = Way(port, upstream.NAME, (group,))
        ways |= await stack.enter_async_context(the_node(folder, behind))
        if not given.without_litellm:
            ways |= await stack.enter_async_context(litellm(folder, behind))
        for load, (question, callers) in LOADS.items():
            for turn in range(given.rounds):
                for place in range(len(ways)):  # who comes first takes turns
                    name = list(ways)[(turn + place) % len(ways)]
                    outcome = await measure(ways[name], question, callers, given.seconds)
                    found[load].setdefault(name, []).append(outcome)
        memory = {name: (memory_of(way.pids), memory_of(way.beside)) for name, way in ways.items()}
    return found, memory


def memory_of(pids: tuple[int, ...]) -> float:
    return sum(map(memory_bytes, pids)) / 1024**2


def middle(outcomes: list[Outcome], what: str) -> float:
    return statistics.median(getattr(one, what) for one in outcomes)


def tell(found: Found, memory: Mapping[str, tuple[float, float]]) -> None:
    for load, by_way in found.items():
        print(f"\n{load}")
        for name, outcomes in by_way.items():
            rate = report.spread([one.heard.rate for one in outcomes])
            p50, p95 = middle(outcomes, "p50_ms"), middle(outcomes, "p95_ms")
            per = LOADS[load][0].words
            cpu = [one.cpu_ms / per for one in outcomes]
            beside = statistics.median(one.cpu_seconds_beside / one.heard.seconds for one in outcomes)
            print(
                f"  {name:15} {rate:>18} answers/s  p50 {p50:8.2f}  p95 {p95:8.2f} ms  "
                f"cpu {report.spread(cpu, '.3f')} ms a {'word' if load in STREAMS else 'request'}"
                + (f"; {beside:.1%} of a core beside it" if beside else "")
            )
    print()
    for name, (own, beside) in memory.items():
        print(f"memory    {name:15} {own:6.1f} MB" + (f", and {beside:.1f} MB beside it" if beside else ""))
    judge(found, memory)


def judge(found: Found, memory: Mapping[str, tuple[float, float]]) -> None:
    alone = found[ALONE]
    figures = {
        "added, p50, 1 caller": (added(alone, "p50_ms"), ADDED_MS_WANTED, "ms"),
        "added, p95, 1 caller": (added(alone, "p95_ms"), None, "ms"),
        "cpu a request, 16 callers": (by_way(found[list(LOADS)[1]], 1), CPU_MS_WANTED, "ms"),
        "cpu a word, all at once": (by_way(found[STREAMS[0]], WORDS), CHUNK_MS_WANTED, "ms"),
        "cpu a word, one by one": (by_way(found[STREAMS[1]], WORDS_ALONE), CHUNK_MS_WANTED, "ms"),
        "memory of the process": ({name: own for name, (own, _) in memory.items()}, MEGABYTES_WANTED, "MB"),
    }
    print()
    for what, (values, wanted, unit) in figures.items():
        for name in (name for name in NODE_WAYS if name in values):
            own = values[name]
            short = (
                "" if wanted is None else f"  wanted {wanted:g} at most{'' if own <= wanted else '  SHORT'}"
            )
            least = f"  relay {values[RELAY]:.3f}"
            times = f"  LiteLLM {values['LiteLLM'] / own:.1f} x" if "LiteLLM" in values else ""
            print(f"{what:26} {name}  {own:.3f} {unit}{short}{least}{times}")
    for load in list(LOADS)[:3]:
        if "LiteLLM" in found[load]:
            ratios = [
                ours.heard.rate / theirs.heard.rate
                for ours, theirs in zip(found[load]["node, by route"], found[load]["LiteLLM"], strict=True)
            ]
            print(f"{'answers a second':26} {load}: {report.spread(ratios, '.1f')} x LiteLLM's")


def added(by_name: Mapping[str, list[Outcome]], what: str) -> dict[str, float]:
    """Beside the direct way, round by round."""
    return {
        name: statistics.median(
            getattr(one, what) - getattr(direct, what)
            for one, direct in zip(outcomes, by_name["direct"], strict=True)
        )
        for name, outcomes in by_name.items()
        if name != "direct"
    }


def by_way(by_name: Mapping[str, list[Outcome]], per: int) -> dict[str, float]:
    return {name: middle(outcomes, "cpu_ms") / per for name, outcomes in by_name.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--without-litellm", action="store_true")
    given = parser.parse_args()
    print("What does a node cost between a program and a model's server?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}")
    print("baseline  the same server asked directly; all by turns", flush=True)
    with nodes.homes() as folder:
        tell(*asyncio.run(compare(folder, given)))


if __name__ == "__main__":
    main()
