"""Forms under a budget: never over it, never worse for having more, and as good as trying everything."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.compress.allot import UNITS_MAX, Choice, Choices, allot, fewest_bytes, unit_of

SIZES = st.integers(0, 400)
LARGE = st.integers(0, 10**9)


def choices(sizes: st.SearchStrategy[int], parts: int) -> st.SearchStrategy[Choices]:
    one = st.builds(Choice, st.sampled_from("abcdef"), sizes, st.floats(0, 10, allow_nan=False))
    held = st.lists(one, min_size=1, max_size=4, unique_by=lambda choice: choice.form)
    return st.dictionaries(st.sampled_from([f"part {n}" for n in range(parts)]), held, min_size=1)


def taken(held: Choices, forms: dict[str, str]) -> list[Choice]:
    assert forms.keys() == held.keys()
    return [next(one for one in held[part] if one.form == form) for part, form in forms.items()]


def lost(held: Choices, forms: dict[str, str] | None) -> float:
    return float("inf") if forms is None else sum(one.loss for one in taken(held, forms))


def best(held: Choices, bytes_max: int) -> float:
    every = product(*held.values())
    within = [way for way in every if sum(one.bytes for one in way) <= bytes_max]
    return min((sum(one.loss for one in way) for way in within), default=float("inf"))


def near(value: float) -> float:
    return value + 1e-9


@settings(max_examples=50, deadline=None)
@given(choices(LARGE, 12), LARGE)
def test_what_is_chosen_is_never_over_the_budget(held: Choices, bytes_max: int) -> None:
    forms = allot(held, bytes_max)
    if forms is not None:
        assert sum(one.bytes for one in taken(held, forms)) <= bytes_max
    else:
        assert bytes_max < fewest_bytes(held) + len(held) * unit_of(held)


@settings(max_examples=50, deadline=None)
@given(choices(LARGE, 8), LARGE, LARGE)
def test_more_bytes_never_lose_more(held: Choices, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert lost(held, allot(held, more)) <= near(lost(held, allot(held, less)))


@settings(max_examples=50, deadline=None)
@given(choices(SIZES, 5), st.integers(-1, 2500))
def test_small_cases_are_solved_as_if_all_had_been_tried(held: Choices, bytes_max: int) -> None:
    found = lost(held, allot(held, bytes_max))
    assert found == best(held, bytes_max) or abs(found - best(held, bytes_max)) < 1e-9


@settings(max_examples=50, deadline=None)
@given(choices(LARGE, 5), LARGE)
def test_large_cases_are_as_good_as_the_best_with_a_unit_a_part_less(held: Choices, bytes_max: int) -> None:
    assert lost(held, allot(held, bytes_max)) <= near(best(held, bytes_max - len(held) * unit_of(held)))


def test_many_parts_of_odd_sizes_stay_within_the_bound_of_units() -> None:
    held = {
        f"part {n}": [Choice(form, 10**7 * size + n, 1 / size) for size, form in enumerate("abcd", 1)]
        for n in range(300)
    }
    assert 4 * 300 * 10**7 / unit_of(held) <= UNITS_MAX
    forms = allot(held, 2 * 300 * 10**7)
    assert forms is not None
    assert set(forms.values()) <= {"a", "b", "c"}


def test_a_touchy_part_gets_what_the_others_can_spare() -> None:
    held = {
        "touchy": [Choice("four", 4, 9.0), Choice("eight", 8, 0.1)],
        "calm": [Choice("three", 3, 0.2), Choice("four", 4, 0.1)],
    }
    assert allot(held, 8) == {"touchy": "four", "calm": "four"}
    assert allot(held, 11) == {"touchy": "eight", "calm": "three"}
    assert allot(held, 6) is None
