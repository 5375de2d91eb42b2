"""`atoll route calibrate` against two models of a real node, a line through pixels and the trained digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fix_home import NodeStarter, RunningNode, atoll
from support.lines import HELD_OUT, write_line

pytestmark = pytest.mark.slow
LEARNT, KNOWN = 60, 90


def calibrate(node: RunningNode, *arguments: str) -> tuple[int, Any]:
    done = atoll("route", "calibrate", *arguments, "--json", "--home", str(node.home))
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_thresholds_come_of_a_file_and_of_a_query_and_none_where_too_much_is_asked(
    start_node: NodeStarter, tmp_path: Path
) -> None:
    with np.load(HELD_OUT) as found:
        images, labels = (found["images"] / 16).astype(np.float32)[:, None], found["labels"].astype(int)
    line = write_line(tmp_path / "line.onnx", images[:LEARNT], labels[:LEARNT])
    rows = [
        {"picture": image.round(3).tolist(), "digit": int(label)}
        for image, label in zip(images[LEARNT:], labels[LEARNT:], strict=True)
    ][:KNOWN]
    file = tmp_path / "known.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    node = start_node()
    added = atoll("model", "add", str(line), "--home", str(node.home))
    assert added.returncode == 0, added.stderr
    names = ("line", "digits", "--input", "picture", "--label", "digit", "--seed", "3")

    code, told = calibrate(node, *names, str(file), "--accuracy", "0.85")
    assert (code, told["rows"], told["seed"]) == (0, len(rows), 3), told
    ways = {way["way"]: way for way in told["ways"]}
    assert ways["first only"]["accuracy"] < 0.85 <= ways["cascade"]["accuracy"] <= ways["oracle"]["accuracy"]
    assert 0 < ways["cascade"]["share_here"] < 1
    assert told["cascade"] == {
        "first": "line",
        "then": "digits",
        "measure": "score",
        "threshold": told["threshold"],
    }

    node.sql("create table known (picture jsonb, digit int)").check_returncode()
    values = ", ".join(f"('{json.dumps(row['picture'])}', {row['digit']})" for row in rows)
    node.sql(f"insert into known values {values}").check_returncode()
    code, again = calibrate(node, *names, "--sql", "select * from known", "--accuracy", "0.85")
    assert (code, again["threshold"], again["ways"]) == (0, told["threshold"], told["ways"])

    code, fitted = calibrate(node, *names, str(file), "--share", "0.6", "--fit")
    assert code == 0, fitted
    assert fitted["rows"] == len(rows) // 2
    assert fitted["cascade"]["calibration"]["temperature"] > 0
    assert next(way for way in fitted["ways"] if way["way"] == "cascade")["share_here"] > 0.4

    code, none = calibrate(node, *names, str(file), "--rows", "10", "--accuracy", "1")
    assert (code, none["cascade"]) == (1, None)
    assert "no threshold" in none["why"]

    code, words = calibrate(node, "line", "digits", str(file), "--accuracy", "0.9")
    assert code == 1
    assert "--input COLUMN" in words


def test_language_models_are_calibrated_by_what_their_engine_says_of_each_token(
    start_node: NodeStarter, tmp_path: Path
) -> None:
    from support.fix_models import write_model

    write_model(tmp_path / "babble.gguf")
    node = start_node()
    added = atoll("model", "add", str(tmp_path / "babble.gguf"), "--home", str(node.home))
    assert added.returncode == 0, added.stderr
    asked = [
        "What does key-serial mean?",
        "What is a node?",
        "What is a scope?",
        "What does disk-full mean?",
    ]
    told = atoll(
        "chat",
        asked[0],
        "--model",
        "pebble",
        "--temperature",
        "0",
        "--tokens",
        "24",
        "--home",
        str(node.home),
    )
    file = tmp_path / "known.csv"
    lines = [f'"{question}","{told.stdout.strip()}"' for question in asked]
    file.write_text("\n".join(["input,label", *lines]))
    for measure in ("mean_logprob", "agreement"):
        flags = ("--tokens", "24", "--measure", measure, "--share", "1")
        code, found = calibrate(node, "babble", "pebble", str(file), *flags)
        assert code == 0, found
        ways = {way["way"]: way for way in found["ways"]}
        assert ways["first only"]["accuracy"] == 0.0
        assert ways["then only"]["accuracy"] == pytest.approx(0.25)
        assert found["cascade"]["measure"] == measure
