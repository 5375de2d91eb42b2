"""The map of the three sites, drawn cell by cell, and the small bars of a history."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from atoll.demo import words
from atoll.demo.view import RoadView, View

COLOURS = {"lisbon": "cyan", "nairobi": "yellow", "osaka": "magenta"}
WIDTH, HEIGHT = 34, 9
TOP, LEFT, RIGHT, FOOT = 16, 9, 23, 7
LAG_BAD_SECONDS = 0.5
BARS = "▁▂▃▄▅▆▇█"


class Canvas:
    def __init__(self, width: int, height: int) -> None:
        self._cells = [[(" ", "")] * width for _ in range(height)]

    def put(self, x: int, y: int, text: str, style: str = "") -> None:
        for offset, letter in enumerate(text):
            if 0 <= x + offset < len(self._cells[y]):
                self._cells[y][x + offset] = (letter, style)

    def text(self) -> Text:
        drawn = Text(no_wrap=True)
        for number, row in enumerate(self._cells):
            drawn.append("\n" if number else "")
            for letter, style in row:
                drawn.append(letter, style)
        return drawn


def draw_map(view: View) -> Text:
    """A triangle: the first site on top, the others at its foot."""
    canvas = Canvas(WIDTH, HEIGHT)
    top, left, right = (site.name for site in view.sites)
    _slope(canvas, view.road(top, left), TOP, -1, "╱")
    _slope(canvas, view.road(top, right), TOP, 1, "╲")
    _foot(canvas, view.road(left, right))
    corners = ((TOP, 0, TOP + 2, 0), (LEFT, FOOT, 1, FOOT), (RIGHT, FOOT, RIGHT + 2, FOOT))
    for site, (x, y, name_x, name_y) in zip(view.sites, corners, strict=True):
        style = f"bold {COLOURS[site.name]}" if site.is_up else "dim"
        canvas.put(x, y, "●" if site.is_up else "○", style)
        canvas.put(name_x, name_y, site.name, style)
        trade = (name_x + len(site.name) + 1, name_y) if name_y == 0 else (name_x, name_y - 1)
        canvas.put(*trade, site.site.trade, "dim")
    if view.is_playing:
        _label(canvas, view.road(top, left), x=LEFT + 3, y=2, is_left=True)
        _label(canvas, view.road(top, right), x=RIGHT - 2, y=2, is_left=False)
        _label(canvas, view.road(left, right), x=TOP, y=FOOT + 1, is_left=None)
    return canvas.text()


def _style(road: RoadView) -> str:
    return "red" if road.is_cut else "yellow" if road.lag_seconds > LAG_BAD_SECONDS else "green"


def _slope(canvas: Canvas, road: RoadView, x: int, direction: int, glyph: str) -> None:
    for y in range(1, FOOT):
        is_gap = road.is_cut and y in (2, 3, 4, 5)
        canvas.put(x + direction * y, y, " " if is_gap else glyph, _style(road))


def _foot(canvas: Canvas, road: RoadView) -> None:
    line = "─" * (RIGHT - LEFT - 3)
    if road.is_cut:
        line = f"{'─' * 2}{'✕':^{len(line) - 4}}{'─' * 2}"
    canvas.put(LEFT + 2, FOOT, line, _style(road))


def _label(canvas: Canvas, road: RoadView, x: int, y: int, is_left: bool | None) -> None:
    """What is the matter on a road, beside it; the road at the foot has its label below, in one line."""
    state = "✕ cut" if road.is_cut and is_left is not None else ""
    waits = f"{words.short(road.waiting)} waiting" if road.waiting else ""
    lines = [line for line in (state, words.lag(road.lag_seconds), waits) if line]
    if is_left is None:
        lines = [", ".join(lines)]
    for number, line in enumerate(lines):
        start = x - len(line) // 2 if is_left is None else x - len(line) if is_left else x + 1
        canvas.put(start, y + number, line, _style(road))


def spark(history: Sequence[int], width: int) -> str:
    """The last values as bars; the highest is as high as a line."""
    recent = list(history)[-width:]
    most = max([*recent, 1])
    return "".join(BARS[round(value / most * (len(BARS) - 1))] for value in recent)
