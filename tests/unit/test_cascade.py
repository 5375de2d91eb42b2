"""How sure a model was, what a cascade makes of it, and which threshold keeps a promise."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.cascades import rows, scores
from atoll.router.cascades.calibrate import GRID, Example, Examples, at_least, isotonic, lower
from atoll.router.policy import cascade
from atoll.router.policy.confidence import Calibration, Measure, Meter, agreement

NONE = Calibration()
POLICY = {"first": "pebble", "then": "pebble-large", "measure": "mean_logprob", "threshold": 0.7}


def chunk(chosen: float, *others: float, index: int = 0) -> dict[str, Any]:
    """An event of a chat with one token of these probabilities."""
    top = [{"token": str(n), "logprob": math.log(p)} for n, p in enumerate((chosen, *others))]
    told = {"token": "0", "logprob": math.log(chosen), "top_logprobs": top}
    return {"choices": [{"index": index, "delta": {"content": "x"}, "logprobs": {"content": [told]}}]}


def measured(measure: Measure, *chunks: dict[str, Any], choices: int = 1) -> float | None:
    meter = Meter(measure, choices)
    for one in chunks:
        meter.feed(one)
    return meter.value()


def test_the_mean_is_the_geometric_mean_of_the_tokens_probabilities() -> None:
    assert measured(Measure.MEAN_LOGPROB, chunk(0.9, 0.1), chunk(0.4, 0.3)) == pytest.approx(0.6)


def test_the_margin_is_the_least_lead_and_never_below_nought() -> None:
    assert measured(Measure.MIN_MARGIN, chunk(0.9, 0.1), chunk(0.5, 0.3, 0.2)) == pytest.approx(0.2)
    assert measured(Measure.MIN_MARGIN, chunk(0.2, 0.8)) == 0.0


def test_the_entropy_is_that_of_the_first_token_alone() -> None:
    sure, torn = chunk(1.0, 1e-9), chunk(0.5, 0.5)
    assert measured(Measure.ENTROPY, sure, torn) == pytest.approx(1.0, abs=1e-6)
    assert measured(Measure.ENTROPY, torn, sure) == pytest.approx(1 - math.log(2) / math.log(3))


def test_of_several_choices_the_least_sure_counts() -> None:
    told = [chunk(0.9, 0.1), chunk(0.3, 0.1, index=1)]
    assert measured(Measure.MEAN_LOGPROB, *told, choices=2) == pytest.approx(0.3)


def test_completions_as_they_have_been_since_long_ago_are_understood() -> None:
    told = {
        "tokens": ["a"],
        "token_logprobs": [math.log(0.5)],
        "top_logprobs": [{"a": math.log(0.5), "b": -2}],
    }
    event = {"choices": [{"index": 0, "text": "a", "logprobs": told}]}
    assert measured(Measure.MIN_MARGIN, event) == pytest.approx(0.5 - math.exp(-2))


@pytest.mark.parametrize("measure", [Measure.MEAN_LOGPROB, Measure.MIN_MARGIN, Measure.ENTROPY])
def test_what_an_engine_does_not_say_is_not_known(measure: Measure) -> None:
    assert measured(measure) is None
    assert measured(measure, {"choices": [{"index": 0, "delta": {"content": "x"}}]}) is None
    bad = {"choices": [{"logprobs": {"content": [{"token": "x", "logprob": "high"}]}}]}
    assert measured(measure, bad) is None


def test_a_first_token_or_one_small_lead_decides_early_and_a_mean_never() -> None:
    for measure, expected in (
        (Measure.ENTROPY, True),
        (Measure.MIN_MARGIN, None),
        (Measure.MEAN_LOGPROB, None),
    ):
        meter = Meter(measure)
        meter.feed(chunk(0.99, 0.001))
        assert meter.early(lambda value: value >= 0.5) is expected
        meter.feed(chunk(0.4, 0.4))
    meter = Meter(Measure.MIN_MARGIN)
    meter.feed(chunk(0.4, 0.4))
    assert meter.early(lambda value: value >= 0.5) is False


def chat(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_answers_agree_by_their_words_and_json_by_its_meaning() -> None:
    assert agreement([chat("Two."), chat(" two"), chat("three")]) == pytest.approx(2 / 3)
    assert agreement([chat('{"a": 1, "b": 2}'), chat('{"b":2,"a":1}')]) == 1.0
    assert agreement([chat(""), chat("")]) is None
    assert agreement([chat("alone")]) is None
    response = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Two"}]}]}
    message = {"content": [{"type": "text", "text": "two"}]}
    assert agreement([response, message]) == 1.0


def test_calls_of_tools_agree_by_name_and_arguments() -> None:
    def call(name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"choices": [{"message": {"content": None, "tool_calls": [{"function": function}]}}]}

    same = [call("look", '{"a": 1}'), call("look", '{"a":1}')]
    assert agreement(same) == 1.0
    assert agreement([same[0], call("sell", '{"a": 1}')]) == 0.5


def test_logits_and_probabilities_say_the_same() -> None:
    logits = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32) * 3
    shares = scores.probabilities(logits)
    again = scores.scores({"probabilities": shares.astype(np.float32)}, None, NONE)
    assert np.allclose(again, scores.scores({"logits": logits}, None, NONE), atol=1e-4)
    two = scores.scores({"p": np.array([0.1, 0.5, 0.8])}, None, NONE)
    assert np.allclose(two, [0.9, 0.5, 0.8])


def test_scores_that_make_no_sense_are_not_sure() -> None:
    broken = np.array([[np.nan, 1.0, 2.0], [0.0, 0.0, 9.0]])
    assert scores.scores({"logits": broken}, None, NONE)[0] == 0.0
    with pytest.raises(DataError, match="not among its outputs"):
        scores.scores({"a": np.ones((2, 3)), "b": np.ones((2, 3))}, None, NONE)
    with pytest.raises(DataError):
        scores.scores({"best": np.array([1, 2])}, None, NONE)


def test_a_fitted_temperature_finds_how_much_a_classifier_brags() -> None:
    random_numbers = np.random.default_rng(5)
    honest = random_numbers.normal(size=(4000, 5)) * 2
    shares = scores.probabilities(honest)
    labels = np.array([random_numbers.choice(5, p=row) for row in shares])
    assert scores.fit_temperature(honest * 3, labels) == pytest.approx(3, rel=0.1)


def test_points_are_joined_by_straight_lines() -> None:
    told = Calibration(points=((0.2, 0.1), (0.6, 0.9)))
    assert told.of(None) is None
    found = [told.of(value) for value in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"then": "pebble"}, "another one then"),
        ({"first": ""}, "first"),
        ({"measure": "feeling"}, "measure"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"samples": 2.5}, "whole"),
        ({"samples": 1000}, "samples"),
        ({"split_rows": "no"}, "split_rows"),
        ({"patience_seconds": -1}, "patience"),
        ({"calibration": {"points": [[0.5, 0.5], [0.4, 0.6]]}}, "rise"),
        ({"calibration": {"points": [[0.5]]}}, "pair"),
        ({"calibration": {"temperature": 0}}, "temperature"),
        ({"escalate_to": "x"}, "escalate_to"),
    ],
)
def test_a_cascade_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        cascade.parse({**POLICY, **change})
    assert caught.value.code == "cascade-malformed"


def test_a_measure_has_to_be_one_of_the_model() -> None:
    with pytest.raises(DataError):
        cascade.check(cascade.parse(POLICY), Skill.INFER)
    with pytest.raises(DataError):
        cascade.check(cascade.parse({**POLICY, "measure": "score"}), Skill.GENERATE)
    cascade.check(cascade.parse({**POLICY, "measure": "score"}), Skill.INFER)


def test_what_is_not_sure_goes_on_unless_it_may_not() -> None:
    policy = cascade.parse(POLICY)
    assert not cascade.decide(policy, 0.7).goes_on
    assert cascade.decide(policy, 0.69).goes_on
    assert cascade.decide(policy, None).goes_on
    kept = cascade.decide(policy, 0.1, ["scope local may not go there"])
    assert not kept.goes_on
    assert "scope local" in kept.why


def test_the_other_samples_differ_from_each_other_and_from_the_request() -> None:
    policy = cascade.parse({**POLICY, "measure": "agreement", "samples": 5})
    body = {"messages": [], "temperature": 0, "seed": 4}
    again = cascade.asked_again(policy, body)
    assert len({one["seed"] for one in (*again, body)}) == 5
    assert all(one["temperature"] > 0 for one in again)
    assert cascade.asked_first(policy, "/v1/messages", body) == body


def test_rows_are_not_parted_where_a_model_has_other_rows() -> None:
    sure = np.array([0.1, 0.9])
    inputs, outputs = {"x": np.ones((2, 4))}, {"y": np.ones((2, 3))}
    assert rows.unsure(sure, 0.5, inputs, outputs) == [0]
    assert rows.unsure(sure, 0.5, {"x": np.ones((1, 2, 4))}, outputs) is None
    assert rows.unsure(sure, 0.5, inputs, {**outputs, "mean": np.ones(3)}) is None
    with pytest.raises(DataError, match="differs"):
        rows.put(outputs, {"y": np.ones((1, 2))}, np.array([0]))


def exactly(right: int, count: int, share: float) -> float:
    """The binomial tail, added up."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(right, count + 1))


def test_the_binomial_tail_is_the_sum_that_it_stands_for() -> None:
    chance = random.Random(11)
    for _ in range(200):
        count = chance.randint(1, 200)
        right, share = chance.randint(0, count), chance.random()
        assert at_least(right, count, share) == pytest.approx(exactly(right, count, share), abs=1e-9)
    assert lower(100, 100, 0.95) == pytest.approx(0.05 ** (1 / 100))  # Clopper and Pearson, all right
    assert lower(0, 100, 0.95) == 0.0
    assert lower(90_000, 100_000, 0.95) == pytest.approx(0.9 - 1.645 * 0.3 / math.sqrt(1e5), abs=1e-4)


def drawn(chance: random.Random, count: int) -> list[Example]:
    """A small model that is right as often as it is sure, and a larger one that is right 95 times of 100."""
    found = []
    for _ in range(count):
        sure = chance.random() ** 0.3
        found.append(Example(sure, chance.random() < sure, chance.random() < 0.95))
    return found


def true_accuracy(threshold: float) -> float:
    """Of the cascade over what `drawn` draws: sure = u ** 0.3."""
    gone_on = threshold ** (1 / 0.3)
    return gone_on * 0.95 + (1 - threshold ** (1 / 0.3 + 1)) / 1.3


def test_a_promise_of_accuracy_is_kept_as_often_as_it_is_said_to_be() -> None:
    seed = 17
    print("seed", seed)
    chance, broken, given = random.Random(seed), 0, 0
    for _ in range(300):
        choice = Examples(drawn(chance, 400)).for_accuracy(0.9, 0.9)
        if choice.threshold is not None:
            given += 1
            broken += true_accuracy(choice.threshold) < 0.9
    assert given > 200
    assert at_least(broken, 300, 0.1) > 1e-4, f"{broken} of 300 promises were broken"


def test_a_promise_of_a_share_is_kept_as_often_as_it_is_said_to_be() -> None:
    seed = 19
    print("seed", seed)
    chance, broken = random.Random(seed), 0
    for _ in range(300):
        choice = Examples(drawn(chance, 400)).for_share(0.3, 0.9)
        assert choice.threshold is not None
        broken += choice.threshold ** (1 / 0.3) > 0.3
    assert at_least(broken, 300, 0.1) > 1e-4, f"{broken} of 300 promises were broken"


def test_too_few_examples_give_no_threshold_but_a_reason() -> None:
    choice = Examples(drawn(random.Random(1), 20)).for_accuracy(0.94)
    assert choice.threshold is None
    assert "20 examples" in choice.why


def test_the_ways_stand_side_by_side_and_none_beats_the_oracle() -> None:
    examples = Examples([*drawn(random.Random(2), 300), Example(None, False, True)])
    first, then, *_, oracle = examples.side_by_side(0.5)
    assert (first.share_here, then.share_here) == (1.0, 0.0)
    assert all(examples.at(threshold).right <= oracle.right for threshold in GRID)
    assert examples.at(0.0).gone_on == 1  # what is not known goes on always


def test_pooled_neighbours_rise_and_are_right_on_average() -> None:
    examples = drawn(random.Random(3), 2000)
    points = isotonic(examples)
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
    told = Calibration(points=tuple(points))
    off = [abs((told.of(value) or 0) - value) for value in (0.5, 0.7, 0.9)]
    assert max(off) < 0.12
