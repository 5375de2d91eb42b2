"""Asking three nodes gives what one PostgreSQL with all of their rows says."""

from __future__ import annotations

import math
import os
import random
from decimal import Decimal
from typing import Any

import pytest

from support.fix_fleet import Fleet

ROUNDS = int(os.environ.get("ATOLL_QUESTION_ROUNDS", "3"))
FROM = "from sale"
GROUPS = [
    "select count(*), count(qty), sum(qty), min(at), max(day), bool_or(is_paid), bool_and(is_paid), every(qty > 0) from sale",
    "select shop, sum(price), avg(price), avg(qty), sum(big), max(note) from sale group by shop order by shop",
    "select shop s, product, count(*) n from sale s group by 1, s.product having count(*) > 1"
    " order by n desc, s, product limit 7 offset 1",
    "select product, stddev(weight), variance(qty), var_pop(qty), stddev_pop(price) from sale group by product order by 1",
    "select count(distinct product), count(distinct shop), sum(distinct qty), avg(distinct qty), sum(qty) from sale",
    "select shop, count(distinct product) filter (where qty > 0), sum(qty) filter (where is_paid) from sale"
    " group by shop order by 1 desc",
    "select sum(qty) / count(*), sum(qty) % 7, sum(qty)::float8 / count(*), -sum(qty) / 3 from sale having count(*) > 0",
    "select date_trunc('month', day) m, sum(qty * price) from sale where qty > 0 group by m order by m nulls first",
    "select p.kind, count(*), sum(s.qty) from sale s join product p using (product) group by p.kind order by p.kind",
    "select p.name, sum(qty) from sale s left join product p on p.product = s.product group by p.name order by 2, 1",
    "select distinct count(*) from sale group by shop order by 1",
    "select coalesce(max(qty), -1) as most, case when sum(qty) > 0 then 'up' else 'down' end from sale where product = 3",
    "select shop from sale group by shop order by count(*) desc, shop limit 2",
    "select count(*) from sale where product in (select product from product where kind = 'fruit')",
    "select sum(qty) from sale where false",
    "select upper(shop), max(length(note)) from sale group by upper(shop) order by upper(shop)",
]
UNIONS = [
    "select * from sale order by id",
    "select id, qty from sale order by qty desc, id limit 5 offset 3",
    "select id from sale order by abs(qty), id desc limit 4",
    "select *, qty * 2 as twice from sale order by twice desc nulls last, id limit 6",
    "select distinct shop, product from sale order by 2 nulls first, 1",
    "select s.id, p.name from sale s join product p using (product) where p.kind = 'rope' order by s.id",
    "select id, note, day, at, price, is_paid from sale where note is not null order by id desc limit 9",
]
MOVED = [
    "select count(*) from sale where qty > (select avg(qty) from sale)",
    "select count(*) from sale a join sale b on a.product = b.product and a.qty < b.qty",
    "select p.product, count(s.id) from product p left join sale s using (product) group by p.product order by 1",
    "with big as (select shop, sum(qty) q from sale group by shop) select max(q), min(q), count(*) from big",
    "select shop, rank() over (order by sum(qty), shop) from sale group by shop order by 2",
    "select id, qty / 7 from sale where qty is not null union all select product, 7 / 2 from product order by 1, 2",
    "select distinct on (shop) shop, id from sale order by shop, id desc",
    "select shop, string_agg(id::text, ',' order by id) from sale where qty = 1 group by shop order by shop",
    "select percentile_disc(0.5) within group (order by qty) from sale",
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Decimal | float | int) and isinstance(b, Decimal | float | int):
        return math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-9)
    return bool(a == b)


@pytest.fixture(params=range(ROUNDS))
def rng(request: pytest.FixtureRequest, fleet: Fleet) -> random.Random:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6))) + request.param
    print(f"seed {seed} (repeat with SEED={seed})")
    found = random.Random(seed)
    fleet.fill(found, rows=120)
    return found


async def test_answers_are_those_of_one_database_with_all_rows(fleet: Fleet, rng: random.Random) -> None:
    for way, questions in (("groups", GROUPS), ("union", UNIONS), ("moved", MOVED)):
        for question in questions:
            assert fleet.plan(question, is_exact=way == "moved").way == way, question
            told = await fleet.ask(question, is_exact=way == "moved")
            truth = fleet.truth(question)
            assert len(told) == len(truth), f"{question}: {told} is not {truth}"
            for row, true_row in zip(told, truth, strict=True):
                assert all(map(same, row, true_row)), f"{question}: {row} is not {true_row}"
