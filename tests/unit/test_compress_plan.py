"""Which form to take: decided by what was measured, drawn, and never measured twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from atoll.compress.comparing import Difference  # noqa: E402
from atoll.compress.drawing import COLUMNS, SIZE, draw_lines, draw_png, place_words  # noqa: E402
from atoll.compress.plan import plan, take  # noqa: E402
from atoll.compress.planning import Candidate, Question, Wishes, recommend  # noqa: E402
from atoll.registry.formats.read import read_model  # noqa: E402
from support.decoders import TEXT, save_decoder  # noqa: E402
from support.fix_home import RUN_MAIN  # noqa: E402

SECONDS_MAX = 120


def candidate(name: str, size: int, loss: float, sure: float = 0.001) -> Candidate:
    lost = Difference(loss, loss - sure, loss + sure)
    return Candidate(name, size, size * 2, size * 3, 1e5 / size, 20.0, lost)


LADDER = (
    candidate("f16", 1400, 0.0, 0.0),
    candidate("q8_0", 750, 0.0002),
    candidate("q5_k", 500, 0.003),
    candidate("q4_0", 430, 0.01),
    candidate("q3_k", 330, 0.05),
)


@pytest.mark.parametrize(
    ("wishes", "name"),
    [
        (Wishes(max_bytes=500), "q5_k"),
        (Wishes(max_bytes=499), "q4_0"),
        (Wishes(max_memory=1500), "q5_k"),
        (Wishes(max_loss=0.02), "q4_0"),
        (Wishes(max_loss=0.0), "q8_0"),
        (Wishes(max_bytes=2000), "q8_0"),
        (Wishes(max_bytes=600, max_loss=0.005), "q5_k"),
        (Wishes(max_ms=5), "q5_k"),
        (Wishes(max_ms=4.4, max_loss=0.1), "q3_k"),
    ],
)
def test_of_what_fits_the_least_loss_or_the_fewest_bytes_are_taken(wishes: Wishes, name: str) -> None:
    advice = recommend(LADDER, wishes)
    assert (advice.name, advice.fits) == (name, True)
    assert advice == recommend(LADDER[::-1], wishes)


@pytest.mark.parametrize(
    ("wishes", "name", "word"),
    [
        (Wishes(max_bytes=300), "q3_k", "330 bytes of 300"),
        (Wishes(max_memory=900), "q3_k", "990 bytes of memory of 900"),
        (Wishes(max_ms=3), "q3_k", "takes 3.30 ms a token of 3"),
        (Wishes(max_bytes=420, max_loss=0.005), "q4_0", "1.00% of 0.50%"),
    ],
)
def test_where_nothing_fits_the_nearest_is_told_and_what_it_misses(
    wishes: Wishes, name: str, word: str
) -> None:
    advice = recommend(LADDER, wishes)
    assert (advice.name, advice.fits) == (name, False)
    assert word in advice.why


def test_the_drawing_has_every_file_where_its_bytes_are_and_fits_a_terminal(tmp_path: Path) -> None:
    twins = (*LADDER, replace(LADDER[3], name="twin"))
    lines = draw_lines(twins)
    text = "\n".join(line.partition("┤")[2] for line in lines)
    assert all(text.count(letter) == 1 for letter in "abcdef")
    assert max(map(len, lines)) <= 80
    start = lines[0].index("┤") + 1
    row = next(line for line in lines if "a" in line.partition("┤")[2])
    assert row.index("a", start) - start == COLUMNS
    draw_png(twins, "q4_0", tmp_path / "plan.png", "rise of perplexity")
    from PIL import Image

    with Image.open(tmp_path / "plan.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000) or ()}
    assert {(0x2A, 0x6F, 0xB0), (0xC0, 0x39, 0x2B)} <= colours


def test_names_of_neighbours_are_drawn_apart() -> None:
    dots = [(400.0, 300.0), (401.0, 302.0), (405.0, 296.0), (410.0, 480.0), (930.0, 498.0), (929.0, 499.0)]
    boxes = place_words(dots, [110] * len(dots))
    for box, (x, y) in zip(boxes, dots, strict=True):
        left, top, right, bottom = box
        assert 0 <= left < right <= SIZE[0]
        assert 0 <= top < bottom <= SIZE[1]
        assert abs((top + bottom) / 2 - y) < 60
        assert min(abs(left - x), abs(right - x)) < 20
        others = [other for other in boxes if other is not box] + [(x, y, x, y) for x, y in dots]
        assert all(
            left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom for other in others
        )


def ask(folder: Path, wishes: Wishes) -> Question:
    (folder / "text.txt").write_text(TEXT.read_text("utf-8"), "utf-8")
    return Question(folder / "model", folder / "text.txt", folder / "text.txt", wishes, folder, 4, 8)


@pytest.mark.slow
def test_a_plan_measures_real_files_and_another_question_makes_only_what_is_new(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    torch.set_num_threads(1)
    answer = plan(ask(tmp_path, Wishes(max_loss=5.0)), lambda word: None)
    sizes = {one.name: one.bytes for one in answer.candidates}
    assert {"f16", "q8_0", "q6_k", "q5_k", "q4_k_m", "q4_0"} < sizes.keys()
    mixed = {name: int(name.partition("-")[2]) for name in sizes if name.startswith("mixed")}
    assert mixed
    assert all(sizes[name] <= most for name, most in mixed.items())
    assert answer.advice.name == min(sizes, key=lambda name: sizes[name])
    assert all(one.per_second > 0 for one in answer.candidates)

    said: list[str] = []
    most = sizes["q5_k"] + 5000
    again = plan(ask(tmp_path, Wishes(max_bytes=most)), said.append)
    begun = {word.partition(",")[0].partition(":")[0] for word in said if word.endswith(": begins")}
    assert begun == {f"mixed-{most}"}
    assert again.candidates[0] == answer.candidates[0]
    take(again, tmp_path / "best.gguf")
    taken = next(one.bytes for one in again.candidates if one.name == again.advice.name)
    assert read_model(tmp_path / "best.gguf").bytes == taken <= most
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.plan", "text.txt", "best.gguf"}


def command(folder: Path, *more: str) -> list[str]:
    texts = ["--calibration", str(TEXT), "--judge", str(TEXT), "--rows", "8", "--calibration-rows", "4"]
    return [sys.executable, "-c", RUN_MAIN, "compress", "plan", str(folder / "model"), *texts, *more]


@pytest.mark.slow
def test_whoever_breaks_it_off_leaves_nothing_half_written_and_goes_on(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    process = subprocess.Popen(
        command(tmp_path, "--max-loss", "9", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    work, deadline = tmp_path / ".model.plan", time.monotonic() + SECONDS_MAX
    while not list(work.glob("q8_0-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert not list(work.glob(".*.part"))
    done = subprocess.run(
        command(tmp_path, "--max-loss", "9", "--json", "--png", str(tmp_path / "plan.png")),
        capture_output=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["recommended"]["fits"]
    assert {Path(one["file"]).parent for one in told["candidates"]} == {work}
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command(tmp_path, "--max-bytes", "9"), capture_output=True, timeout=SECONDS_MAX)
    assert again.returncode == 1
    assert b"nothing fits" in again.stdout


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ([], b"--for here"),
        (["--max-ms", "nan"], b"more than 0 ms"),
        (["--max-ms", "5", "--for", "osaka"], b"--for here"),
    ],
)
def test_a_question_without_bounds_or_for_the_speed_of_a_node_elsewhere_is_refused(
    more: list[str], word: bytes, tmp_path: Path
) -> None:
    done = subprocess.run(command(tmp_path, *more), capture_output=True, timeout=SECONDS_MAX)
    assert done.returncode == 2
    assert word in done.stderr
