"""The pure parts of the demo: what is written, drawn and measured, and what would be complained about."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from decimal import Decimal

import pytest
from PIL import Image
from rich.console import Console

from atoll.demo import words
from atoll.demo.asking import Answer
from atoll.demo.chart import spark
from atoll.demo.epilogue import summary
from atoll.demo.gap import Gap, Way, mark, measure
from atoll.demo.ledger import Account, Spread
from atoll.demo.outcome import CutFacts, Outcome, SiteFact, TableFact, find_complaints
from atoll.demo.picture import draw
from atoll.demo.program import read_error
from atoll.demo.promises import are_kept, weigh
from atoll.demo.scenario import (
    ASK,
    CALM,
    CUT,
    HEALED,
    PRICES,
    SITES,
    START_QTY,
    STEPS,
    TABLES,
    Step,
    choose_trade,
    is_observation,
)
from atoll.demo.screen import LivePicture, PlainLines, choose_screen
from atoll.demo.sites import source_of
from atoll.demo.sites.desk import articles
from atoll.demo.view import Told, View, view_roads, view_sites
from atoll.demo.watch import Conflict, Decision, Item, Seen

NAMES = [site.name for site in SITES]


ANSWER = Answer(
    "The restore says backup-version. What do I do next?",
    "The backup was written by another version of Atoll. What to do: restore it with that version.",
    ("backup-version", "transfer-gap", "table-shared"),
)


def a_view(step: int, conflicts: int = 0) -> View:
    """A moment with numbers as large as they get."""
    star = Item(998_765, Decimal("12.75"), "local, organic")
    latest = Decision(
        "night shift", "`key-serial`: the key is a serial or identity column", 0.98, "pebble", 0.0312
    )
    here = Seen(
        orders=dict.fromkeys(NAMES, 123456),
        decisions=dict.fromkeys(NAMES, 123456),
        raw_rows=123_456,
        raw_bytes=987_654_321,
        latest=(latest,) * 5,
        star=star,
    )
    account = Account()
    for number in range(200):
        account.note_observation(number, at=100.0)
        account.note_decision(number, at=100.1234)
    gaps = {Way("lisbon", "osaka"): Gap(65.0, 123_456), Way("osaka", "nairobi"): Gap(0.0, 0)}
    clash = Conflict(7, "saffron", "price", "24.00", "nairobi", "12.75", "lisbon", 12.3)
    return View(
        seconds=83.0,
        step=step,
        text=STEPS[step].text,
        sites=view_sites(
            dict.fromkeys(NAMES, account),
            dict.fromkeys(NAMES, here),
            dict.fromkeys(NAMES, 123_456_789),
            NAMES if step else NAMES[:1],
        ),
        roads=view_roads(gaps, "osaka" if STEPS[step] in (CUT, ASK) else None),
        answer=ANSWER if STEPS[step] is ASK else None,
        conflicts=(clash,) * conflicts,
        conflict_count=conflicts,
        story=tuple(Told(float(n), f"Thing number {n} happened. This is more about it.") for n in range(30)),
        waiting_before=tuple(range(100)),
    )


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(view, width, height), height=height)
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_the_picture_fits_the_terminal_in_every_step(width: int, height: int, step: int) -> None:
    lines = drawn(a_view(step, conflicts=40), width, height)
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert all(name in text for name in (*NAMES, STEPS[step].title))
    assert "Ctrl-C" in text


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (CALM, ("night shift", "`key-serial`", "0.98", "31 ms")),
        (CUT, ("✕ cut", "1:05 min", "123k waiting", "night shift")),
        (ASK, (ANSWER.question, "restore it", "backup-version, transfer-gap and table-shared")),
        (HEALED, ("price of saffron", "12.75", "24.00")),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_the_smallest_picture_has_every_number_whole(step: Step, shown: tuple[str, ...]) -> None:
    lines = drawn(a_view(STEPS.index(step), conflicts=3), 80, 24)
    text = "\n".join(lines)
    places = ("factory", "help desk", "bearing", "123k", "123 ms", "998,765", "12.75")
    sizes = ("987.7 MB", "123.5 MB", "5925.9 MB raw not sent, 370.4 MB sent")
    for part in (*places, *sizes, *shown):
        assert part in text, text
    # Only what a model said may be too long.
    assert not any("…" in line and "`key" not in line for line in lines), text


def test_plain_lines_tell_each_thing_once_and_in_ascii() -> None:
    said: list[str] = []
    lines = PlainLines(said.append)
    lines.show(a_view(2))
    lines.show(a_view(2))
    assert len([line for line in said if "Thing number 3 happened." in line]) == 1
    assert any("lag: lisbon-nairobi in step, lisbon-osaka 1:05 min" in line for line in said)
    assert any("decided: lisbon 123,456 in 123 ms, nairobi" in line for line in said)
    assert any("2963.0 MB stayed, 370.4 MB crossed" in line for line in said)
    assert all(line.isascii() for line in said)
    assert all(step.text.isascii() for step in STEPS)


def test_only_a_terminal_gets_a_live_picture() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        @property
        def encoding(self) -> str:  # type: ignore[override]
            return "utf-8"

    def screen(
        file: io.StringIO, width: int = 80, terminal: str = "xterm", *, is_plain: bool = False
    ) -> object:
        is_live = file.isatty() and not is_plain
        environment = {"TERM": terminal, "FORCE_COLOR": "1"}
        return choose_screen(
            Console(file=file, width=width, height=24, force_terminal=is_live, _environ=environment)
        )

    assert isinstance(screen(Terminal()), LivePicture)
    assert isinstance(screen(io.StringIO()), PlainLines)
    assert isinstance(screen(Terminal(), is_plain=True), PlainLines)
    assert isinstance(screen(Terminal(), width=79), PlainLines)
    assert isinstance(screen(Terminal(), terminal="dumb"), PlainLines)


def test_the_same_seed_writes_the_same_and_never_reprices_the_row_that_is_watched() -> None:
    once, again = ([choose_trade(random.Random(5)) for _ in range(500)] for _ in range(2))
    assert once == again
    rng = random.Random(5)
    writes = [choose_trade(rng) for _ in range(5000)]
    assert {write.kind for write in writes} == {"sell", "reprice"}
    assert "figs" not in {write.item for write in writes if write.kind == "reprice"}


@pytest.mark.parametrize("rate", [1, 30, 1000])
def test_a_site_writes_its_share_for_its_model_and_no_more_than_the_model_can_take(rate: int) -> None:
    for site in SITES:
        count = sum(is_observation(number, site, rate) for number in range(100_000))
        assert count == pytest.approx(100_000 * min(site.share, site.most_per_second / rate), abs=1)


def test_sources_write_the_same_for_the_same_seed_and_say_what_is_true() -> None:
    for site in SITES:
        once, again = (source_of(site.trade, seed=11) for _ in range(2))
        rows = [once.next() for _ in range(300)]
        assert rows == [again.next() for _ in range(300)]
        assert len({row.values[-1] for row in rows}) >= 4
    window, photo, question = (source_of(site.trade, seed=11).next().values for site in SITES)
    assert len(window[2]) == 512
    assert 0.5 < sum(window[2]) / 512 < 1.5  # it lies on the machine, so it feels gravity
    with Image.open(io.BytesIO(photo[1])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 256))
    assert any(article.title in question[1] and article.means == question[2] for article in articles())


def test_a_gap_counts_what_was_acknowledged_before_the_look() -> None:
    account = Account()
    for number in range(10):
        account.note_order(float(number), "figs", 1)
    before = {"lisbon": mark(account, at=9.5)}
    account.note_order(9.9, "figs", 1)
    reader = Seen(orders={"lisbon": 7})
    assert measure({"lisbon": account}, before, "osaka", reader) == {Way("lisbon", "osaka"): Gap(2.5, 3)}
    reader = Seen(orders={"lisbon": 10})
    assert measure({"lisbon": account}, before, "osaka", reader) == {Way("lisbon", "osaka"): Gap(0.0, 0)}
    assert measure({"lisbon": account}, before, "lisbon", reader) == {}


def test_a_decision_takes_from_the_commit_of_its_row_to_its_own_whichever_is_heard_of_first() -> None:
    account = Account()
    for number in range(100):
        account.note_observation(number, at=1.0)
        account.note_decision(number, at=1.0 + (number + 1) / 100)
    account.note_decision(100, at=2.0)
    assert account.decided == 100, "a row that is not acknowledged yet is not counted"
    account.note_observation(100, at=2.1)
    assert (account.observed, account.decided, account.rows) == (101, 101, 101)
    taken = account.deciding(100)
    assert taken is not None
    assert (taken.p50, taken.p99) == (pytest.approx(0.505), pytest.approx(0.99))
    assert account.deciding(1) == Spread(0.0, 0.0)
    account.forget_times()
    assert account.deciding(100) is None


def test_a_missing_order_and_a_wrong_count_are_complained_about() -> None:
    account = Account()
    account.note_order(1.0, "figs", 3)
    account.note_observation(1, 2.0)
    stock = dict.fromkeys(PRICES, START_QTY) | {"figs": START_QTY - 3}
    whole = Seen({"lisbon": 1}, {"lisbon": 1})
    assert find_complaints({"lisbon": account}, {"osaka": whole}, {"osaka": stock}) == ()
    lacks = Seen({}, {"lisbon": 2})
    found = find_complaints({"lisbon": account}, {"osaka": lacks}, {"osaka": stock | {"tea": 1}})
    assert found == (
        "osaka has 0 orders of lisbon, and 1 were acknowledged",
        "osaka has 2 decisions of lisbon, and 1 rows wanted one",
        f"osaka has 1 tea, and {START_QTY} should be left",
    )


def an_outcome() -> Outcome:
    spread = Spread(0.0051, 0.0123)
    cut = CutFacts(
        12.1, dict.fromkeys(NAMES, 360), 0.004, 0.0041, 24, spread, spread, ANSWER, 1234, 12.0, 2.4
    )
    facts = tuple(
        SiteFact(
            site,
            rows=100,
            right=99,
            deciding=spread,
            raw_bytes=2_345_678,
            decision_bytes=120,
            crossed_bytes=456_789,
            decided=dict.fromkeys(NAMES, 100),
            raw_rows={name: 100 if name == site.name else 0 for name in NAMES},
            rolled_up=100,
        )
        for site in SITES
    )
    tables = tuple(TableFact(table, dict.fromkeys(NAMES, "12 rows abc"), is_checked=True) for table in TABLES)
    return Outcome(cut, facts, 1500, 0, tables, {}, (), dict.fromkeys(NAMES, 3), None, None, 0)


def test_every_promise_is_kept_or_the_demo_has_failed() -> None:
    outcome = an_outcome()
    assert are_kept(outcome)
    first, second, third = outcome.sites
    strays = replace(second, raw_rows=dict(second.raw_rows) | {"lisbon": 1})
    undecided = replace(first, decided=dict.fromkeys(NAMES, 99))
    unknown = replace(third, decided=dict(third.decided) | {"nairobi": 98})
    uncounted = replace(third, rolled_up=99)
    broken = {
        "1 raw row on a node that did not write it": replace(outcome, sites=(first, strays, third)),
        "299 of 300 rows were decided": replace(outcome, sites=(undecided, second, third)),
        "300 decisions on every node": replace(outcome, sites=(first, second, unknown)),
        "100 windows of vibration summed up": replace(outcome, sites=(first, second, uncounted)),
        "0 decisions of Osaka while": replace(outcome, cut=replace(outcome.cut, decided=0)),
        "an answer in Osaka": replace(outcome, cut=replace(outcome.cut, answer=replace(ANSWER, titles=()))),
        "every write that was acknowledged": replace(outcome, complaints=("osaka has 1 tea",)),
        "all shared rows the same": replace(outcome, silent={"osaka": "no answer"}),
    }
    assert len(broken) == len(weigh(outcome))
    for begin, found in broken.items():
        assert not are_kept(found)
        assert any(f"NOT KEPT: {begin}" in line for line in summary(found)), begin


def test_the_last_word_fits_a_narrow_terminal() -> None:
    lines = summary(an_outcome())
    assert max(map(len, lines)) < 80, max(lines, key=len)
    assert sum("kept: " in line for line in lines) == 8
    assert "NOT" not in "".join(lines)


def test_what_a_node_says_when_it_ends_becomes_an_error_again() -> None:
    error = read_error(
        ["node lisbon", "error: port 7600 is in use", "hint: Stop what listens there."], "osaka"
    )
    assert (error.message, error.hint) == ("port 7600 is in use", "Stop what listens there.")
    killed = read_error(["node osaka"], "osaka")
    assert (killed.message, killed.detail) == (
        '"osaka" of the demo ended unasked',
        "It last said: node osaka",
    )


def test_numbers_read_well() -> None:
    assert [words.duration(seconds) for seconds in (0.0034, 0.1234, 0.9996, 6.24, 59.9, 65)] == [
        "3 ms",
        "123 ms",
        "1.0 s",
        "6.2 s",
        "59.9 s",
        "1:05 min",
    ]
    assert words.count(1, "row") == "1 row"
    assert words.count(1234, "row") == "1,234 rows"
    assert [words.size(number) for number in (850, 12_345, 999_600, 3_400_000)] == [
        "850 B",
        "12 kB",
        "1.0 MB",
        "3.4 MB",
    ]
    assert spark([0, 4, 8], 2) == "▅█"
