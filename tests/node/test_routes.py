"""`atoll route` on a real node, whose cloud is another real node."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.fix_home import RunningNode, atoll, eventually, starting

pytestmark = pytest.mark.slow
SAY = {"messages": [{"role": "user", "content": "What is an atoll?"}], "temperature": 0, "max_tokens": 6}


def ask(node: RunningNode, model: str, **headers: str) -> tuple[int, str, Any]:
    body = json.dumps({**SAY, "model": model}).encode()
    named = {f"x-atoll-{name.replace('_', '-')}": value for name, value in headers.items()}
    request = urllib.request.Request(f"{node.http}/v1/chat/completions", body, named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)["choices"][0]["message"]["content"]
            return answer.status, answer.headers["x-atoll-decision"], said
    except urllib.error.HTTPError as error:
        with error:
            told = json.load(error)["error"]
            return error.code, error.headers["x-atoll-decision"], told["code"]


def spend_a_budget(node: RunningNode, run: Callable[..., str]) -> None:
    """What is asked for costs more than there is; what is paid for does not."""
    spend = ("--model", "pebble", "--model", "cloud=far", "--prefer", "cloud,here", "--budget", "little")
    assert "code: budget-unknown" in run("route", "set", "spend", *spend, fails=True)
    assert "0.0005 every 1h" in run("budget", "set", "little", "0.0005", "--period", "1h")
    run("route", "set", "spend", *spend)
    eventually(lambda: (ask(node, "spend")[1] or "").startswith("cloud:far"), "the budget pays")
    decisions = [ask(node, "spend")[1] for _ in range(60)]
    paid = [one for one in decisions if one.startswith("cloud:far")]
    told = json.loads(node.get(f"/api/decisions/{paid[0].rpartition('=')[2]}")[1])
    cost = next(one["cost"] for one in told["places"] if one["kind"] == "cloud")
    assert len(paid) * cost <= 0.0005 < len(decisions) * cost
    assert decisions[-1].startswith("here"), "nothing is refused: the next place answers"
    (row,) = json.loads(run("budget", "list", "--json"))
    assert row["granted"] <= row["amount"] == 500
    assert 'atoll_budget_refusals_total{budget="little"}' in node.get("/metrics")[1]
    run("budget", "set", "little", "0.1", "--period", "1h")
    eventually(lambda: ask(node, "spend")[1].startswith("cloud:far"), "there is more")
    assert "nobody knows what it would cost" in run("route", "explain", "spend", "--tokens-in", "9")
    run("budget", "rm", "little")
    eventually(
        lambda: "the budget is spent here" in run("route", "explain", "spend", "--tokens-out", "6"),
        "a budget that is not there pays for nothing",
    )
    assert ask(node, "spend")[1].startswith("here")
    assert "code: budget-unknown" in run("budget", "rm", "little", fails=True)
    run("route", "rm", "spend")


def have_somebody_stand_in(node: RunningNode, run: Callable[..., str]) -> None:
    """With the cloud down: answered here and said so, or taken in and answered later."""
    away = ("route", "set", "away", "--model", "pebble", "--model", "cloud=far", "--prefer", "cloud")
    assert "code: route-malformed" in run(*away, "--unreachable", "moon", fails=True)
    run(*away, "--unreachable", "here", "--policy-expires", "7d")
    eventually(lambda: ask(node, "away")[0] == 200, "this node's own model stands in")
    assert ask(node, "away")[1].startswith("here; route=away; provisional")
    (line,) = [line for line in run("route", "list").splitlines() if line.startswith("away")]
    assert line.split()[-3:] == ["here", "7", "d"]
    run(*away, "--unreachable", "queue")
    eventually(lambda: ask_raw(node, "away")[0] == 202, "it is taken in")
    status, headers, told = ask_raw(node, "away")
    assert (status, headers["location"], told["model"]) == (202, told["url"], "away")
    assert json.loads(node.get(told["url"])[1])["state"] in ("waiting", "working", "retrying")
    assert ask_raw(node, "away", {"x-atoll-place": "cloud"})[0] == 503, "that would not go along with a job"


def ask_raw(node: RunningNode, model: str, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    body = json.dumps({**SAY, "model": model}).encode()
    request = urllib.request.Request(f"{node.http}/v1/chat/completions", body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


def test_a_route_leads_here_and_to_the_cloud_and_with_that_down_stays_here(open_folder: Path) -> None:
    with starting(open_folder / "far") as start_far, starting(open_folder / "near") as start_near:
        far, near = start_far(waits=None), start_near(waits=None)
        far.wait_for("^READY")
        near.wait_for("^READY")

        def run(*arguments: str, fails: bool = False) -> str:
            done = atoll(*arguments, "--home", str(near.home))
            assert (done.returncode != 0) is fails, done.stdout + done.stderr
            return done.stdout + done.stderr

        upstream = f"upstream:{far.http}/v1"
        add = ("model", "add", upstream, "--model", "pebble", "--name", "far")
        run(*add)
        places = ("--model", "cloud=far", "--prefer", "cloud,here")
        misspelt = run("route", "set", "ask", "--model", "pebbel", *places)
        assert misspelt.count("note:") == misspelt.count('no node has a model "pebbel" yet') == 1
        assert "note:" not in run("route", "set", "ask", "--model", "pebble", *places)
        eventually(lambda: ask(near, "ask")[1] is not None, "the route is known")
        assert ask(near, "ask")[1].startswith("here; route=ask"), "nobody has said where that cloud is"
        run(*add, "--region", "eu", "--price-in", "0.5", "--price-out", "2")
        eventually(lambda: ask(near, "ask")[1].startswith("cloud:far"), "region and price are known")
        plain = ask(near, "pebble")
        assert plain[1] is None, "a model that is asked by its name is not routed"
        assert ask(near, "ask")[2] == plain[2]

        run(
            "route",
            "set",
            "ask",
            "--model",
            "pebble",
            "--model",
            "cloud=far",
            "--prefer",
            "cloud,here",
            "--label",
            "patient=local",
        )
        explained = run("route", "explain", "ask", "--tokens-out", "50", "--label", "patient")
        assert "scope local may not go there" in explained
        status, decision, _ = ask(near, "ask", label="patient")
        assert (status, decision.partition(";")[0]) == (200, "here")
        assert ask(near, "ask", label="patient", place="cloud")[::2] == (403, "no-place")
        told = json.loads(near.get(f"/api/decisions/{decision.rpartition('=')[2]}")[1])
        assert told["answered_by"]["place"] == "here"

        spend_a_budget(near, run)
        far.end()
        status, decision, said = ask(near, "ask")
        assert (status, decision.partition(";")[0], said) == (200, "here", plain[2])
        told = json.loads(near.get(f"/api/decisions/{decision.rpartition('=')[2]}")[1])
        assert [one["place"] for one in told["tries"]] == ["cloud:far", "here"]
        assert ask(near, "ask", place="cloud")[::2] == (503, "no-place")
        have_somebody_stand_in(near, run)
        assert (
            'atoll_route_requests_total{end="answered",place="cloud",route="ask"}' in near.get("/metrics")[1]
        )

        assert json.loads(run("route", "show", "ask"))["labels"] == {"patient": "local"}
        run("route", "rm", "ask")
        assert "code: route-unknown" in run("route", "rm", "ask", fails=True)
        eventually(lambda: ask(near, "ask")[2] == "model-unknown", "the route is gone")
