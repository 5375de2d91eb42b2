"""Who is asked what: selectors, reach, joins, the way that is taken, the way from node to node."""

from __future__ import annotations

import math

import pytest

from atoll.analytics.catalog import relation
from atoll.analytics.members import choose
from atoll.analytics.plan import Plan
from atoll.analytics.planner import make_plan, parse, relations_of
from atoll.analytics.question import Catalog, Member, Question, Reach, Relation
from atoll.analytics.reach import rows_of, share_out
from atoll.analytics.route import STEPS_MAX, next_steps
from atoll.domain.errors import AtollError

LISBON = Member(1, "lisbon", "eu", "hub", 0.0)
PORTO = Member(2, "porto", "eu", "edge", 0.02)
OSAKA = Member(3, "osaka", "ap", "hub", 0.2)
KOBE = Member(4, "kobe", "ap", "edge", math.inf)
ALL = (LISBON, PORTO, OSAKA, KOBE)
CATALOG = Catalog(
    {
        '"sale"': Relation(Reach.NODE, columns=("id", "product", "qty")),
        '"line"': Relation(Reach.NODE, columns=("id", "sale", "price")),
        '"tide"': Relation(Reach.REGION, columns=("id", "height")),
        '"product"': Relation(Reach.GLOBAL, columns=("product", "name")),
        '"visit"': Relation(Reach.ROW, "place", "global", ("id", "place")),
        '"Odd ""Name"""': Relation(Reach.GLOBAL),
        '"shop"."till"': Relation(Reach.NODE, columns=("id",)),
    },
    frozenset({"biggest"}),
)


def plan(sql: str, members: tuple[Member, ...] = ALL, **options: bool) -> Plan:
    return make_plan(Question(sql, **options), CATALOG, members)  # type: ignore[arg-type]


def asked(found: Plan) -> list[list[str]]:
    return [[member.name for member in ask.duty.candidates] for ask in found.asks]


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        ([], "lisbon porto osaka kobe"),
        (["all"], "lisbon porto osaka kobe"),
        (["region=ap"], "osaka kobe"),
        (["tier=hub"], "lisbon osaka"),
        (["tier=hub", "region=ap"], "osaka"),
        (["node=porto,4"], "porto kobe"),
        (["node=porto", "node=kobe"], "porto kobe"),
        (["all", "tier=edge"], "porto kobe"),
    ],
)
def test_selectors_choose_nodes_the_nearest_first(selectors: list[str], names: str) -> None:
    assert " ".join(member.name for member in choose(selectors, ALL)) == names


@pytest.mark.parametrize(
    ("selectors", "code"),
    [
        (["region=mars"], "question-for-nobody"),
        (["region=eu", "node=kobe"], "question-for-nobody"),
        (["eu"], "question-selector"),
        (["place=eu"], "question-selector"),
        (["node="], "question-selector"),
    ],
)
def test_a_selector_that_means_nobody_is_refused(selectors: list[str], code: str) -> None:
    with pytest.raises(AtollError) as caught:
        choose(selectors, ALL)
    assert caught.value.code == code


def test_duties_go_to_whoever_holds_the_rows() -> None:
    names = {reach: [[m.name for m in duty.candidates] for duty in share_out(reach, ALL)] for reach in Reach}
    assert names[Reach.NODE] == [["lisbon"], ["porto"], ["osaka"], ["kobe"]] == names[Reach.ROW]
    assert names[Reach.REGION] == [["osaka", "kobe"], ["lisbon", "porto"]]
    assert names[Reach.GLOBAL] == [["lisbon", "porto", "osaka", "kobe"]]


def test_rows_that_say_where_they_belong_are_left_to_who_speaks_for_them() -> None:
    visit = CATALOG.relations['"visit"']
    told = {member.name: rows_of(visit, member, ALL, "place") for member in ALL}
    assert told["lisbon"] == "coalesce(nullif(place::text, ''), 'global') not in ('ap', 'region:ap')"
    assert "'global', 'eu', 'region:eu', 'ap', 'region:ap'" in str(told["porto"])
    assert "not in ('global', 'eu', 'region:eu')" in str(told["osaka"])
    assert rows_of(visit, KOBE, (KOBE,), "place") is None
    here, there = Member(1, "here", "local"), Member(2, "there", "local", distance=1.0)
    assert str(rows_of(visit, there, (here, there), "place")).endswith("not in ('global', 'region:local')")


@pytest.mark.parametrize(
    ("sql", "way", "who"),
    [
        ("select 1", "union", "lisbon|porto|osaka|kobe"),
        ("select count(*) from pg_stat_activity", "groups", "lisbon|porto|osaka|kobe"),
        ("select count(*) from sale", "groups", "lisbon|porto|osaka|kobe"),
        ("select * from tide", "union", "osaka,kobe|lisbon,porto"),
        ("select * from product", "whole", "lisbon,porto,osaka,kobe"),
        ('select * from "Odd ""Name"""', "whole", "lisbon,porto,osaka,kobe"),
        ("select * from PRODUCT p", "whole", "lisbon,porto,osaka,kobe"),
        ("select * from shop.till", "union", "lisbon|porto|osaka|kobe"),
        ("with a as (select * from product) select * from a", "whole", "lisbon,porto,osaka,kobe"),
        ("select * from product union all select * from product", "whole", "lisbon,porto,osaka,kobe"),
        ("select * from tide join product on true", "union", "osaka,kobe|lisbon,porto"),
        ("select * from sale left join product using (product)", "union", "lisbon|porto|osaka|kobe"),
        ("select * from product right join sale using (product)", "union", "lisbon|porto|osaka|kobe"),
        (
            "select count(*) from sale where product in (select product from product)",
            "groups",
            "lisbon|porto|osaka|kobe",
        ),
        (
            "with p as (select * from product) select count(*) from sale join p using (product)",
            "groups",
            "lisbon|porto|osaka|kobe",
        ),
    ],
)
def test_the_narrowest_table_decides_who_is_asked(sql: str, way: str, who: str) -> None:
    found = plan(sql)
    assert (found.way, "|".join(",".join(names) for names in asked(found))) == (way, who)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("select * from sale join line on line.sale = sale.id", "a join of tables"),
        ("select * from sale join tide using (id)", "a join of tables"),
        ("select * from sale a, sale b", "a join of tables"),
        ("select * from product left join sale using (product)", "an outer join"),
        ("select * from sale full join product using (product)", "an outer join"),
        ("select * from sale right join product using (product)", "an outer join"),
        ("select * from sale where qty > (select avg(qty) from sale)", "a join of tables"),
        ("select * from product where product in (select product from sale)", "a subquery"),
        ("with a as (select sum(qty) q from sale group by product) select max(q) from a", "a subquery"),
        ("select * from sale union select * from sale", "a set operation"),
        ("select rank() over (order by qty) from sale", "a window function"),
        ("select array_agg(qty) from sale", "the aggregate"),
        ("select string_agg(id::text, ',') from sale", "the aggregate"),
        ("select json_agg(id) from sale", "the aggregate"),
        ("select biggest(qty) from sale", "the aggregate"),
        ("select mode() within group (order by qty) from sale", "the aggregate"),
        ("select sum(qty) from sale group by rollup (product)", "a grouping set"),
        ("select distinct on (product) id from sale", "a DISTINCT ON"),
        ("select distinct product from sale order by qty", "a DISTINCT sorted"),
        ("select id from sale limit (select 1)", "a limit"),
        ("select id, count(*) from sale group by product", "the column"),
        ("select count(*), (select count(*) from product) from sale", "a subquery"),
    ],
)
def test_what_does_not_come_apart_moves_rows_and_says_why(sql: str, why: str) -> None:
    found = plan(sql)
    assert found.way == "moved"
    assert why in found.notes[0]


def test_joins_are_each_nodes_own_where_that_is_asked_for() -> None:
    found = plan("select sum(price) from sale join line on line.sale = sale.id", joins_locally=True)
    assert (found.way, len(found.asks)) == ("groups", 4)


def test_one_node_answers_alone_and_in_the_askers_words() -> None:
    sql = "select rank() over (order by qty) from sale where qty > (select avg(qty) from sale) ;"
    found = plan(sql, (PORTO,))
    assert (found.way, asked(found), found.asks[0].sql[0]) == ("whole", [["porto"]], sql.rstrip("; "))
    assert plan("select * from tide", (LISBON, PORTO)).way == "whole"
    assert (
        "PERCENTILE_CONT(0.5)" in plan("select approx_quantile(qty, 0.5) from sale", (PORTO,)).asks[0].sql[0]
    )


def test_moved_rows_are_few_and_narrow() -> None:
    found = plan(
        "select s.product, sum(l.price) from sale s join line l on l.sale = s.id"
        " where s.qty > 3 and l.price < s.qty group by 1"
    )
    texts = {ask.part: ask.sql[0] for ask in found.asks}
    assert texts["p0"] == 'SELECT "id", "product", "qty" FROM "sale" AS "t" WHERE "t"."qty" > 3'
    assert texts["p1"] == 'SELECT "id", "sale", "price" FROM "line" AS "t"'
    assert (
        "WHERE"
        not in plan("select * from sale s full join line l using (id) where s.qty is null").asks[0].sql[0]
    )


def test_the_top_of_all_is_among_the_tops_of_each() -> None:
    assert plan("select id from sale order by qty desc limit 5 offset 2").asks[0].sql[0].endswith("LIMIT 7")
    assert (
        "LIMIT" not in plan("select product, sum(qty) from sale group by 1 order by 2 limit 3").asks[0].sql[0]
    )
    assert "ORDER BY" not in plan("select id from sale order by qty").asks[0].sql[0]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("insert into sale values (1)", "question-not-a-select"),
        ("select 1; select 2", "question-not-a-select"),
        ("with x as (delete from sale returning *) select * from x", "question-not-a-select"),
        ("select * into other from sale", "question-not-a-select"),
        ("select * from sale for update", "question-not-a-select"),
        ("select $1", "question-not-a-select"),
        ("", "question-not-a-select"),
        ("selec 1", "question-malformed"),
        ("select from where", "question-malformed"),
        ("select " + "(" * 5000 + "1" + ")" * 5000, "question-malformed"),
        ("select " + "1 + " * 30_000 + "1", "question-malformed"),
    ],
)
def test_what_is_no_question_is_refused(sql: str, code: str) -> None:
    with pytest.raises(AtollError) as caught:
        plan(sql)
    assert caught.value.code == code


def test_tables_are_found_wherever_they_are_named() -> None:
    found = relations_of(
        parse(
            "with x as (select * from a) select (select max(b) from Q.B) from x"
            " join public.x y on true, lateral (select * from c) z"
        )
    )
    assert sorted(found) == ['"a"', '"c"', '"public"."x"', '"q"."b"']


def test_a_views_reach_is_that_of_the_narrowest_table_in_it() -> None:
    def scope(word: str | None, column: str | None = None) -> dict[str, str | None]:
        return {"scope": word, "scope_column": column}

    assert relation([], [scope("global")]).reach is Reach.GLOBAL
    assert relation([], [scope("global"), scope("region")]).reach is Reach.REGION
    assert relation([], [scope("region"), scope(None)]).reach is Reach.NODE
    assert relation([], [scope("local")]).reach is relation([], []).reach is Reach.NODE
    assert relation(["a"], [scope("region", "a")]) == Relation(Reach.ROW, "a", "region", ("a",))
    mixed = relation([], [scope("global"), scope("region", "a")])
    assert not mixed.is_countable
    catalog = Catalog({'"seen"': mixed})
    assert make_plan(Question("select * from seen"), catalog, (PORTO,)).way == "whole"
    with pytest.raises(AtollError, match='view "seen" cannot be asked'):
        make_plan(Question("select * from seen"), catalog, ALL)


def test_a_question_goes_straight_or_over_hubs_and_never_back() -> None:
    nodes = {member.number: member for member in (*ALL, Member(5, "tokyo", "ap", "cloud", 0.3))}
    assert next_steps(4, [2], {1, 4}, nodes) == (4,)
    assert next_steps(4, [2], {1, 3, 5}, nodes) == (3, 5, 1), "hubs of the region first, then the nearest"
    assert next_steps(2, [4], {3}, nodes) == (3,)
    assert next_steps(4, [1, 3], {1, 5}, nodes) == (5,)
    assert next_steps(4, [1], {2}, nodes) == (), "an edge hands nothing on"
    assert next_steps(4, [2, 3, 5], {1}, nodes) == (), "not more than three steps"
    assert next_steps(4, [2, 3, 5], {4}, nodes) == (4,)
    assert next_steps(2, [2, 3], {2}, nodes) == (), "nobody is asked what it asked"
    assert len([2, 3, 5]) == STEPS_MAX
