"""Which rows are learned, which only judge, and in which order: all of it without torch."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from atoll.domain.errors import ConfigError, DataError
from atoll.training.batches import chosen
from atoll.training.examples import EXAMPLES_MIN, Example, of_rows, split
from atoll.training.steps import made_whole

SEED = 3


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {number}?", "answer": f"it is {number}"} for number in range(count)]


def test_rows_without_an_answer_teach_nothing() -> None:
    found = of_rows([*rows(10), {"prompt": "and?", "answer": None}, {"text": "  "}, {"text": "a reef"}])
    assert len(found) == 11
    assert found[-1] == Example("", "a reef")


@pytest.mark.parametrize("row", [{"question": "x", "answer": "y"}, {"answer": "y"}, "text", 7, {}])
def test_a_row_that_is_no_example_is_named(row: Any) -> None:
    with pytest.raises(DataError, match="row 11 is no example"):
        of_rows([*rows(10), row])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        of_rows(rows(EXAMPLES_MIN - 1))
    with pytest.raises(DataError, match="say the same"):
        split(of_rows(rows(1) * 20), 0.1, SEED)


def test_the_same_rows_are_split_the_same_way_in_any_order() -> None:
    print(f"seed {SEED}")
    examples = of_rows(rows(200))
    mixed = random.Random(SEED).sample(examples, len(examples))
    (learned, held_out), (others, judges) = split(examples, 0.2, SEED), split(mixed, 0.2, SEED)
    assert held_out == judges
    assert set(learned) == set(others)
    assert len(held_out) == 40
    assert split(examples, 0.2, SEED + 1)[1] != held_out


def test_a_row_that_is_there_twice_is_on_one_side() -> None:
    learned, held_out = split(of_rows(rows(50) * 3), 0.3, SEED)
    assert not set(learned) & set(held_out)
    assert len(learned) + 3 * len(held_out) == 150


def test_every_row_comes_once_before_any_comes_again() -> None:
    seen: Counter[int] = Counter()
    for step in range(30):
        seen.update(chosen(10, 7, step, SEED))
        assert max(seen.values()) - min(seen[at] for at in range(10)) <= 1
    assert chosen(10, 7, 3, SEED) == chosen(10, 7, 3, SEED)
    assert chosen(3, 8, 0, SEED) != list(range(8))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Any) -> None:
    def stop_half_way() -> None:
        with made_whole(tmp_path / "out", "a") as work:
            (work / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_half_way()
    assert not (tmp_path / "out").exists()
    with (
        pytest.raises(ConfigError, match="unfinished work of something else"),
        made_whole(tmp_path / "out", "b"),
    ):
        pass
    with made_whole(tmp_path / "out", "a") as work:
        assert (work / "half").read_text() == "x"
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "half"]
    below_a_file = tmp_path / "out" / "half" / "x"
    with pytest.raises(ConfigError, match="could not write"), made_whole(below_a_file, "a"):
        pass
