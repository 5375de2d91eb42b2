"""`atoll route` on a real node, whose cloud is another real node."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
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
        run("route", "set", "ask", "--model", "pebble", "--model", "cloud=far", "--prefer", "cloud,here")
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

        far.end()
        status, decision, said = ask(near, "ask")
        assert (status, decision.partition(";")[0], said) == (200, "here", plain[2])
        told = json.loads(near.get(f"/api/decisions/{decision.rpartition('=')[2]}")[1])
        assert [one["place"] for one in told["tries"]] == ["cloud:far", "here"]
        assert ask(near, "ask", place="cloud")[::2] == (503, "no-place")
        assert (
            'atoll_route_requests_total{end="answered",place="cloud",route="ask"}' in near.get("/metrics")[1]
        )

        assert json.loads(run("route", "show", "ask"))["labels"] == {"patient": "local"}
        run("route", "rm", "ask")
        assert "code: route-unknown" in run("route", "rm", "ask", fails=True)
        eventually(lambda: ask(near, "ask")[2] == "model-unknown", "the route is gone")
