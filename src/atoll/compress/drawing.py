"""Quality against bytes, drawn: in characters for a terminal, and as a PNG.

Each file is a letter where its bytes and its loss meet, on the line of how sure the loss is. Losses are drawn
by their square roots, so that small ones can be told apart beside a large one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters
from typing import TYPE_CHECKING

from atoll.compress.folder import fresh

if TYPE_CHECKING:
    from atoll.compress.planning import Candidate

COLUMNS, LINES = 60, 14
MARKS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way up, where the loss is written
SIZE, EDGES = (960, 560), (90, 40, 930, 500)  # of the picture, and of the field in it
LETTERS, RADIUS, GAP = 15, 5, 12  # pixels: how high words are, how large a dot is, how far words are from it
TEXT, GRID, DOT, CHOSEN = "#222222", "#dddddd", "#2a6fb0", "#c0392b"
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Spot:
    """From 0 to 1: rightwards by bytes, upwards by loss."""

    letter: str
    across: float
    up: float
    low: float
    high: float


def lettered(candidates: Sequence[Candidate]) -> Iterator[tuple[str, Candidate]]:
    return zip(ascii_letters, candidates, strict=False)


def place(candidates: Sequence[Candidate]) -> list[Spot]:
    widest, most = max(one.bytes for one in candidates), most_lost(candidates)

    def up(loss: float) -> float:
        return math.sqrt(min(1.0, max(0.0, loss) / most))

    return [
        Spot(letter, one.bytes / widest, up(one.loss.middle), up(one.loss.low), up(one.loss.high))
        for letter, one in lettered(candidates)
    ]


def most_lost(candidates: Sequence[Candidate]) -> float:
    return max(1e-4, *(one.loss.high for one in candidates))


def draw_lines(candidates: Sequence[Candidate]) -> list[str]:
    field = [[" "] * (COLUMNS + 1) for _ in range(LINES + 1)]
    spots = place(candidates)
    for spot in spots:
        for height in range(round(spot.low * LINES), round(spot.high * LINES) + 1):
            field[LINES - height][round(spot.across * COLUMNS)] = "│"
    for spot in spots:
        line, column = field[LINES - round(spot.up * LINES)], round(spot.across * COLUMNS)
        while column and line[column] not in " │":  # two at one place stand side by side
            column -= 1
        line[column] = spot.letter
    told = {LINES - round(up * LINES): f"{up**2 * most_lost(candidates):.2%}" for up in MARKS}
    lines = [f"{told.get(at, ''):>7} ┤{''.join(line).rstrip()}" for at, line in enumerate(field)]
    widest = max(one.bytes for one in candidates) / 1e6
    lines.append(f"{'loss':>7} └{'─' * (COLUMNS + 1)}")
    lines.append(f"{'':>9}0{f'{widest / 2:.1f}':>{COLUMNS // 2}}{f'{widest:.1f} MB':>{COLUMNS // 2}}")
    return lines


def draw_png(candidates: Sequence[Candidate], chosen: str, target: Path, title: str) -> None:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)
    left, top, right, bottom = EDGES
    widest = max(one.bytes for one in candidates) / 1e6
    for share in MARKS:
        y, x = bottom - share * (bottom - top), left + share * (right - left)
        pen.line((left, y, right, y), GRID)
        pen.text((left - 8, y), f"{share**2 * most_lost(candidates):.2%}", TEXT, font, anchor="rm")
        pen.text((x, bottom + 8), f"{share * widest:.1f}", TEXT, font, anchor="mt")
    pen.text((left, top - 22), f"{title}, with its 95 % interval", TEXT, font, anchor="lm")
    pen.text(((left + right) / 2, bottom + 40), "MB", TEXT, font, anchor="mm")
    drawn = list(zip(place(candidates), candidates, strict=False))
    dots = [(left + spot.across * (right - left), bottom - spot.up * (bottom - top)) for spot, _ in drawn]
    widths = [math.ceil(font.getlength(one.name)) for _, one in drawn]
    for (spot, one), (x, y), box in zip(drawn, dots, place_words(dots, widths), strict=True):
        colour = CHOSEN if one.name == chosen else DOT
        low, high = (bottom - up * (bottom - top) for up in (spot.low, spot.high))
        pen.line((x, low, x, high), colour, 2)
        pen.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), colour)
        near = box[0] if box[0] > x else box[2]
        pen.line((x, y, near, (box[1] + box[3]) / 2), colour)
        pen.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), one.name, colour, font, anchor="mm")
    with fresh(target) as partial:
        picture.save(partial, "PNG")


def place_words(dots: Sequence[tuple[float, float]], widths: Sequence[int]) -> list[Box]:
    """A box for the name of each dot: beside it, or as near above or below as nothing else is."""
    taken: list[Box] = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in dots]
    found = []
    for (x, y), width in zip(dots, widths, strict=True):
        begins = (x + GAP, x - GAP - width)
        sides = [at for at in begins if at >= 0 and at + width <= SIZE[0]] or begins
        ways = [
            (at, y + shift, at + width, y + shift + LETTERS)
            for shift in sorted(range(-SIZE[1], SIZE[1], 3), key=lambda shift: abs(shift + LETTERS / 2))
            for at in sides
        ]
        inside = [box for box in ways if box[1] >= 0 and box[3] <= EDGES[3]]
        free = (box for box in inside if not any(_meet(box, other) for other in taken))
        box = next(free, inside[0])
        taken.append(box)
        found.append(box)
    return found


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
