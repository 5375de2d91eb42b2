"""Rounds as they are typed, on a real node: with one node they are ordinary training on its rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from atoll.start import start_models
from support.decoders import TEXT
from support.fix_home import NodeStarter, atoll
from support.fix_tiny_llama import questions

pytestmark = pytest.mark.slow
START = {model.name: model.path for model in start_models()}
ROWS = "select prompt, answer from repair"


def test_a_node_opens_rounds_takes_part_and_shows_what_came_of_them(
    tiny_llama: Path, start_node: NodeStarter, open_folder: Path
) -> None:
    node = start_node()
    values = ", ".join(f"('{row['prompt']}', '{row['answer']}')" for row in questions(80, 2))
    assert (
        node.sql(
            f"create table repair (prompt text, answer text); insert into repair values {values}"
        ).returncode
        == 0
    )
    at = ("--home", str(node.home))
    wish = (
        "--rounds",
        "1",
        "--steps",
        "20",
        "--rate",
        "0.01",
        "--batch",
        "16",
        "--tokens",
        "64",
        "--clip",
        "100",
    )
    opened = atoll("round", "open", "cures", str(tiny_llama), *wish, "--noise", "0.001", *at)
    assert opened.returncode == 0, opened.stderr
    assert "cures: 1 rounds; a node sends" in opened.stdout
    assert "epsilon" in opened.stdout
    kept = open_folder / "kept"
    done = atoll("round", "work", "cures", str(tiny_llama), "-o", str(kept), "--from", ROWS, *at)
    assert done.returncode == 0, done.stderr
    assert (kept / "adapter" / "adapter.gguf").exists()
    assert [path.name for path in kept.iterdir()] == ["adapter"]
    first, last = json.loads(atoll("round", "show", "cures", "--json", *at).stdout)["verdicts"]
    assert (first["round"], last["round"], last["is_kept"]) == (0, 1, True)
    assert last["after"] < last["before"] == first["after"]
    assert "no" not in atoll("round", "show", "cures", *at).stdout.split()
    (listed,) = json.loads(atoll("round", "list", "--json", *at).stdout)
    assert (listed["name"], listed["round"], listed["nodes"]) == ("cures", 1, 1)
    assert listed["ended_at"]
    again = atoll("round", "end", "cures", *at)
    assert (again.returncode, "code: tuning-unknown" in again.stderr) == (1, True)
    assert atoll("round", "average", "cures", *at).returncode == 0
    assert_a_plan_counts_what_the_node_has_free(tiny_llama, open_folder, at)


def assert_a_plan_counts_what_the_node_has_free(model: Path, folder: Path, at: tuple[str, str]) -> None:
    (row,) = json.loads(atoll("model", "plan", str(START["pebble"]), "--json", *at).stdout)["nodes"]
    own = folder / "own"
    shutil.copytree(model, own / "model")
    texts = ("--calibration", str(TEXT), "--judge", str(TEXT), "--rows", "4", "--calibration-rows", "2")
    asked = ("compress", "plan", str(own / "model"), *texts, "--json", *at, "--for")
    unknown = atoll(*asked, "nowhere")
    assert (unknown.returncode, "code: node-unknown" in unknown.stderr) == (1, True)
    assert f"There are {row['node']}." in unknown.stderr
    done = atoll(*asked, row["node"])
    assert done.returncode == 0, done.stderr
    wished = json.loads(done.stdout)["wishes"]["max_memory"]
    assert wished == row["bytes_max"] - row["bytes_taken"] > 0


def test_a_narrower_classifier_learns_from_rows_of_a_table(
    training: None, start_node: NodeStarter, open_folder: Path
) -> None:
    """Columns are the model's inputs, by their names."""
    node = start_node()
    made = node.sql(
        "create table vibration (id int primary key, g real[]); insert into vibration"
        " select n, array(select sin(at * (0.02 + n % 7 * 0.01)) + n % 3 from generate_series(1, 512) as at)"
        " from generate_series(1, 60) as n"
    )
    assert made.returncode == 0, made.stderr
    words = ["distill", str(START["bearing"]), "-o", str(open_folder / "narrow"), "--home", str(node.home)]
    query = ["--from", "select g as window from vibration"]
    done = atoll(*words, *query, "--steps", "4", "--every", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "the student says what its teacher says" in done.stdout
    added = atoll("model", "add", str(open_folder / "narrow"), "--name", "narrow", "--home", str(node.home))
    assert added.returncode == 0, added.stderr
    words[3] = str(open_folder / "other")
    named = atoll(*words, "--from", "select now() as window from vibration")
    assert named.returncode == 1
    assert "holds values that are no numbers" in named.stderr
    wrong = atoll(*words, "--from", "select g from vibration")
    assert wrong.returncode == 1
    assert "the model wants window" in wrong.stderr
