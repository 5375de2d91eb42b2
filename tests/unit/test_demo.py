"""The pure parts of the demo: what is written, drawn and measured, and what would be complained about."""

from __future__ import annotations

import io
import random
from decimal import Decimal

import pytest
from rich.console import Console

from atoll.demo import words
from atoll.demo.chart import spark
from atoll.demo.gap import Gap, Way, mark, measure
from atoll.demo.ledger import Account
from atoll.demo.outcome import find_complaints
from atoll.demo.picture import draw
from atoll.demo.program import read_error
from atoll.demo.scenario import PRICES, SITES, START_QTY, STEPS, choose_write
from atoll.demo.screen import LivePicture, PlainLines, choose_screen
from atoll.demo.view import Told, View, view_roads, view_sites
from atoll.demo.watch import Conflict, Item, Seen

NAMES = [site.name for site in SITES]


def a_view(step: int, conflicts: int = 0) -> View:
    """A moment with numbers as large as they get."""
    star = Item(998_765, Decimal("12.75"), "local, organic")
    seen = {name: Seen({name: 123_456}, {name: 123_456}, star) for name in NAMES}
    account = Account()
    for number in range(200):
        account.note(at=100 + number / 100, took=0.1234)
    gaps = {Way("lisbon", "osaka"): Gap(65.0, 123_456), Way("osaka", "nairobi"): Gap(0.0, 0)}
    clash = Conflict(7, "saffron", "price", "24.00", "nairobi", "12.75", "lisbon", 12.3)
    return View(
        seconds=83.0,
        step=step,
        text=STEPS[step].text,
        sites=view_sites(dict.fromkeys(NAMES, account), seen, NAMES if step else NAMES[:1], 102.0),
        roads=view_roads(gaps, "osaka" if step == 2 else None),
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


def test_the_smallest_picture_has_every_number_whole() -> None:
    text = "\n".join(drawn(a_view(2, conflicts=3), 80, 24))
    for part in (
        "writes/s",
        "123.4 ms",
        "123,456",
        "998,765",
        "12.75",
        "local, organic",
        "✕ cut",
        "1:05 min",
    ):
        assert part in text, text
    assert "123k waiting" in text
    assert "price of saffron" in text
    assert "…" not in text, text


def test_plain_lines_tell_each_thing_once_and_in_ascii() -> None:
    said: list[str] = []
    lines = PlainLines(said.append)
    lines.show(a_view(2))
    lines.show(a_view(2))
    assert len([line for line in said if "Thing number 3 happened." in line]) == 1
    assert any("lag: lisbon-nairobi in step, lisbon-osaka 1:05 min" in line for line in said)
    assert all(line.isascii() for line in said)
    assert all(step.text.isascii() for step in STEPS)


def test_only_a_terminal_gets_a_live_picture() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        @property
        def encoding(self) -> str:  # type: ignore[override]
            return "utf-8"

    def screen(file: io.StringIO, width: int = 80, terminal: str = "xterm") -> object:
        environment = {"TERM": terminal, "FORCE_COLOR": "1"}
        return choose_screen(
            Console(file=file, width=width, height=24, force_terminal=file.isatty(), _environ=environment)
        )

    assert isinstance(screen(Terminal()), LivePicture)
    assert isinstance(screen(io.StringIO()), PlainLines)
    assert isinstance(screen(Terminal(), width=79), PlainLines)
    assert isinstance(screen(Terminal(), terminal="dumb"), PlainLines)


def test_the_same_seed_writes_the_same_and_never_reprices_the_row_that_is_watched() -> None:
    once, again = ([choose_write(random.Random(5)) for _ in range(500)] for _ in range(2))
    assert once == again
    rng = random.Random(5)
    writes = [choose_write(rng) for _ in range(5000)]
    assert {write.kind for write in writes} == {"sell", "measure", "reprice"}
    assert "figs" not in {write.item for write in writes if write.kind == "reprice"}


def test_a_gap_counts_what_was_acknowledged_before_the_look() -> None:
    account = Account()
    for number in range(10):
        account.note_reading(at=float(number))
    before = {"lisbon": mark(account, at=9.5)}
    account.note_reading(at=9.9)
    reader = Seen(orders={}, readings={"lisbon": 7})
    assert measure({"lisbon": account}, before, "osaka", reader) == {Way("lisbon", "osaka"): Gap(2.5, 3)}
    reader = Seen(orders={}, readings={"lisbon": 10})
    assert measure({"lisbon": account}, before, "osaka", reader) == {Way("lisbon", "osaka"): Gap(0.0, 0)}
    assert measure({"lisbon": account}, before, "lisbon", reader) == {}


def test_a_missing_order_and_a_wrong_count_are_complained_about() -> None:
    account = Account()
    account.note_order(1.0, "figs", 3)
    account.note_reading(2.0)
    stock = dict.fromkeys(PRICES, START_QTY) | {"figs": START_QTY - 3}
    whole = Seen({"lisbon": 1}, {"lisbon": 1})
    assert find_complaints({"lisbon": account}, {"osaka": whole}, {"osaka": stock}) == ()
    lacks = Seen({}, {"lisbon": 1})
    found = find_complaints({"lisbon": account}, {"osaka": lacks}, {"osaka": stock | {"tea": 1}})
    assert found == (
        "osaka has 0 orders of lisbon, and 1 were acknowledged",
        f"osaka has 1 tea, and {START_QTY} should be left",
    )


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
    assert [words.duration(seconds) for seconds in (0.0034, 0.0996, 6.24, 59.9, 65)] == [
        "3 ms",
        "0.1 s",
        "6.2 s",
        "59.9 s",
        "1:05 min",
    ]
    assert words.count(1, "row") == "1 row"
    assert words.count(1234, "row") == "1,234 rows"
    assert spark([0, 4, 8], 2) == "▅█"
