"""Rounds on three real databases: what nodes send arrives in pieces, late or never, and what it comes to is judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atoll.domain.errors import DataError
from atoll.sql import query
from atoll.training.round_book import START, Fetch, average, find, get, newest, put
from atoll.training.rounds import Wish
from support.fix_nodes import Node, Nodes

if TYPE_CHECKING:
    from atoll.training.rounds import Weights

SEED = 4
HOUR = 3_600_000
LARGE = {"q": np.zeros((300, 700), np.float32)}  # several pieces


def quiet(word: str) -> None:
    pass


def statements(node: Node) -> Fetch:
    """What the node's commands do."""

    def fetch(name: str, values: Any) -> list[dict[str, Any]]:
        with node.apply.transaction():
            node.apply.execute("set local session_replication_role = origin")
            cursor = node.apply.cursor(row_factory=dict_row)
            cursor.execute(query("rounds", name), values)
            return cursor.fetchall() if cursor.description else []

    return fetch


def begin(
    node: Node, wish: Wish, weights: Weights, scope: str = "global", base: str = "of-these-weights"
) -> None:
    fetch = statements(node)
    fetch("open", {"name": "cures", "base": base, "wish": Jsonb(wish.told()), "scope": scope})
    put(fetch, "cures", 0, START, 0, weights)


def send(node: Node, number: int, value: float, rows: int = 10) -> bool:
    moved = {name: np.full_like(one, value) for name, one in LARGE.items()}
    return put(statements(node), "cures", number, node.number, rows, moved)


def clock(nodes: Nodes, hours: float) -> None:
    for node in nodes:
        node.clock(int(hours * HOUR))


def test_a_round_waits_for_the_late_ends_without_the_absent_and_tells_all(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    wish = Wish(rounds=2, wait_seconds=3600, least=2, clip=1e6)
    clock(three_nodes, 10)
    begin(one, wish, LARGE)
    three_nodes.sync()
    tell = statements(one)
    assert newest(statements(three), "cures") == 0
    send(two, 0, 1.0, rows=10)
    send(three, 0, 4.0, rows=30)
    assert not average(tell, find(tell, "cures"), quiet), "nothing has arrived"
    three_nodes.sync()
    assert not average(tell, find(tell, "cures"), quiet), "the third may still send"
    clock(three_nodes, 11.1)
    assert average(tell, find(tell, "cures"), quiet)
    assert not average(tell, find(tell, "cures"), quiet)
    three_nodes.sync()
    arrived = get(statements(three), "cures", 1, START)
    assert arrived is not None
    assert np.allclose(arrived["q"], 3.25)
    assert not [
        row for row in statements(two)("parts", ("cures",)) if row["round"] == 0 and row["node"] != START
    ]

    send(one, 0, 9.0)
    for node in three_nodes:
        send(node, 1, 1.0)
    three_nodes.sync()
    assert average(tell, find(tell, "cures"), quiet), "all are here, so nobody waits"
    three_nodes.sync()
    assert find(statements(two), "cures").is_ended
    assert not send(two, 1, 1.0), "it has ended"
    last = get(statements(two), "cures", 2, START)
    assert last is not None
    assert np.allclose(last["q"], 4.25), "what was sent for an earlier round does not count"


def test_a_part_that_lies_or_has_not_arrived_whole_does_not_count(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    begin(one, Wish(least=2, wait_seconds=0, clip=1e3), LARGE)
    three_nodes.sync()
    send(one, 0, 1.0)
    send(two, 0, 50.0)
    send(three, 0, 1.0)
    cut = two.changes()
    assert sum(change.n for change in cut) >= 4
    one.receive(cut[:-1])
    tell = statements(one)
    assert {row["node"] for row in tell("parts", ("cures",))} == {START, 1}
    one.receive(cut[-1:])
    one.receive(three.changes())
    said: list[str] = []
    assert average(tell, find(tell, "cures"), said.append)
    assert "the part of node 2 does not count: it moved by" in said[0]
    begun = get(tell, "cures", 1, START)
    assert begun is not None
    assert np.allclose(begun["q"], 1.0)

    one.owner(
        "update atoll.tuning_part set weights = 'no weights' where node = 0 and round = 1 and piece = 0"
    )
    assert get(tell, "cures", 1, START) is None


def test_parts_stay_in_the_scope_of_their_tuning(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    begin(one, Wish(), LARGE, scope="region:eu")
    three_nodes.sync()
    send(two, 0, 1.0)
    three_nodes.sync()
    assert len({row["node"] for row in statements(one)("parts", ("cures",))}) == 2
    assert three.owner("select count(*) from atoll.tuning_part")[0][0] == 0
    with pytest.raises(DataError) as caught:
        find(statements(three), "cures")
    assert caught.value.code == "tuning-unknown"


def test_only_its_keeper_begins_a_round_or_ends_it(three_nodes: Nodes) -> None:
    one, two, _ = three_nodes
    begin(one, Wish(), LARGE)
    three_nodes.sync()
    assert not put(statements(two), "cures", 1, START, 0, LARGE)
    assert not put(statements(two), "cures", 0, 3, 0, LARGE), "nor does one node speak for another"
    assert statements(two)("end", ("cures",)) == []
    assert statements(one)("end", ("cures",)) != []


@pytest.mark.parametrize(
    ("name", "scope", "code"),
    [
        ("Cures!", "global", "tuning-malformed"),
        ("x", "region:us", "tuning-scope"),
        ("cures", "global", "tuning-exists"),
    ],
)
def test_a_tuning_that_cannot_be_is_refused(node: Node, name: str, scope: str, code: str) -> None:
    begin(node, Wish(), LARGE)
    with pytest.raises(psycopg.Error) as caught:
        statements(node)("open", {"name": name, "base": "b", "wish": Jsonb({}), "scope": scope})
    assert caught.value.diag.constraint_name == code


def test_an_adapter_that_is_too_large_for_rows_is_refused(node: Node) -> None:
    huge = {"q": np.zeros((5000, 5000), np.float32)}
    with pytest.raises(DataError, match="more than rows should carry"):
        begin(node, Wish(), huge)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_together_three_nodes_learn_what_none_could_alone(
    training: None, tiny_llama: Path, three_nodes: Nodes, tmp_path: Path
) -> None:
    """Each has seen two of six kinds of questions, and no row leaves it."""
    from atoll.training import round_work
    from atoll.training.batches import encode
    from atoll.training.examples import of_rows
    from atoll.training.loop import Schedule, judge, train
    from support.fix_tiny_llama import STATES, questions

    print(f"seed {SEED}")
    wish = Wish(rounds=3, steps=20, batch=16, rate=1e-2, rank=16, tokens=64, seed=SEED, clip=100)
    begin(
        three_nodes[0], wish, round_work.beginning(tiny_llama, wish), base=round_work.weights_of(tiny_llama)
    )
    three_nodes.sync()
    workers = [
        round_work.worker(
            statements(node),
            find(statements(node), "cures"),
            tiny_llama,
            _folder(tmp_path, node),
            of_rows(questions(120, SEED, states=STATES[2 * at : 2 * at + 2])),
            np.random.default_rng(SEED),
            quiet,
        )
        for at, node in enumerate(three_nodes)
    ]
    everything = encode(_tokenizer(tiny_llama), of_rows(questions(60, SEED + 1)), 64)
    alone = []
    schedule = Schedule(wish.rounds * wish.steps, wish.batch, wish.rate, wish.steps, 9, SEED)
    for worker in workers:
        train(worker.net, worker.rows, worker.held_out, schedule, worker.folder, quiet)
        alone.append(judge(worker.net, everything))
    tell = statements(three_nodes[0])
    done: set[int] = set()
    while len(done) < len(workers):
        for at, worker in enumerate(workers):
            while (did := worker.step()) not in ("wait", "done"):
                pass
            if did == "done":
                done.add(at)
        three_nodes.sync()
        average(tell, find(tell, "cures"), quiet)
        three_nodes.sync()
    together = [judge(worker.net, everything) for worker in workers]
    assert len({round(loss, 4) for loss in together}) == 1, "all ended with the same"
    assert max(together) < min(alone), (together, alone)
    verdicts = tell("verdicts", ("cures",))
    assert {(row["round"], row["node"]) for row in verdicts} == {(n, k) for n in range(4) for k in "123"}
    for row in verdicts:
        assert row["is_kept"] is (row["round"] == 0 or row["after"] < row["before"])
    for worker in workers:
        assert (worker.folder / round_work.KEPT / "adapter.gguf").exists()


def _folder(place: Path, node: Node) -> Path:
    folder = place / str(node.number)
    folder.mkdir()
    return folder


def _tokenizer(folder: Path) -> Any:
    from atoll.training.folder import load

    return load(folder).tokenizer
