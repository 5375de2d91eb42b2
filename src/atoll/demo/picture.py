"""The live picture: what there is to see, laid out for the size of the terminal. Pure."""

from __future__ import annotations

from rich.align import Align
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from atoll.demo import words
from atoll.demo.asking import Answer
from atoll.demo.chart import COLOURS, HEIGHT, WIDTH, draw_map, spark
from atoll.demo.scenario import ASK, AWAY, BUILD, CALM, CUT, STAR, STEPS
from atoll.demo.view import SiteView, View
from atoll.demo.watch import Conflict

WIDTH_MIN, HEIGHT_MIN = 80, 24
WIDTH_MAX = 120
STORY_LINES = 9
NO_CONFLICT = (
    "None: nobody has overwritten what they had not seen. If two sites do, the later write stays on every"
    " node, and the other one is kept and listed here."
)


def draw(view: View, width: int, height: int) -> RenderableType:
    """The whole screen. What does not fit below is left away, the least important first."""
    wide = min(width, WIDTH_MAX)
    parts = [
        Layout(_header(view, wide), size=2),
        Layout(_narration(view), size=4),
        Layout(_middle(view, wide), size=HEIGHT + 1),
    ]
    left = height - 2 - 4 - HEIGHT - 1
    if left >= 8 + STORY_LINES and view.is_playing:
        parts.append(Layout(_story(view, STORY_LINES - 2), size=STORY_LINES))
        left -= STORY_LINES
    parts.append(Layout(_below(view, left)))
    frame = Layout()
    frame.split_column(*parts)
    return Align.center(frame, width=wide) if width > wide else frame


def _header(view: View, width: int) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    title = Text.assemble((" Atoll ", "bold reverse"), "  AI where the data is: three sites")
    line.add_row(title, Text(f"{words.clock(view.seconds)}  Ctrl-C ends it ", "dim"))
    return Group(line, _steps(view.step))


def _steps(now: int) -> Text:
    drawn = Text(" ")
    for number, step in enumerate(STEPS):
        drawn.append(" ── " if number else "", "dim")
        mark = "✓" if number < now else "●" if number == now else "○"
        drawn.append(f"{mark} {step.title}", "green" if number < now else "bold" if number == now else "dim")
    return drawn


def _narration(view: View) -> Panel:
    return Panel(Text(view.text, overflow="ellipsis"), border_style="blue", padding=(0, 1))


def _middle(view: View, width: int) -> RenderableType:
    grid = Table.grid()
    grid.add_column(width=WIDTH + 2)
    grid.add_column(width=width - WIDTH - 2)
    right = _numbers(view, width) if view.is_playing else _build_story(view)
    grid.add_row(draw_map(view), right)
    return grid


def _build_story(view: View) -> Text:
    drawn = Text(no_wrap=True, overflow="ellipsis")
    for told in view.story[-HEIGHT:]:
        drawn.append(f"{told.at:5.1f} s  ", "dim")
        drawn.append(f"{told.headline}\n")
    return drawn


def _numbers(view: View, width: int) -> RenderableType:
    gap = (0, 1 if width < WIDTH_MAX else 3, 0, 0)
    work = _grid(gap, "", "model", "rows", "decided", "p50", "p99")
    room = _grid(gap, "", "stayed", "crossed", STAR, "price")
    style = "green" if len({site.star for site in view.sites}) == 1 else "yellow"
    for site in view.sites:
        name = Text(site.name, COLOURS[site.name])
        took = site.deciding
        times = ("-", "-") if took is None else (words.duration(took.p50), words.duration(took.p99))
        work.add_row(name, site.site.model, words.short(site.rows), words.short(site.decided), *times)
        star = ("", "") if site.star is None else (f"{site.star.qty:,}", f"{site.star.price}")
        sizes = (Text(words.size(site.raw_bytes), "green"), words.size(site.crossed_bytes))
        room.add_row(name, *sizes, *(Text(cell, style) for cell in star))
    total = Text.assemble(
        (words.size(view.not_sent_bytes), "bold green"),
        (" raw not sent, ", "dim"),
        words.size(view.crossed_bytes),
        (" sent", "dim"),
    )
    return Group(work, Text(), room, total)


def _grid(gap: tuple[int, int, int, int], *titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=gap, header_style="dim")
    for title in titles:
        table.add_column(title, justify="left" if title in ("", "model") else "right", no_wrap=True)
    return table


def _story(view: View, most: int) -> RenderableType:
    drawn = Text(no_wrap=True, overflow="ellipsis")
    for told in view.story[-most:]:
        drawn.append(f"{words.clock(told.at):>5}  ", "dim")
        drawn.append(f"{told.headline}\n")
    history = Text(spark(view.waiting_before, 30), "yellow")
    both = Table.grid(expand=True, padding=(0, 2))
    both.add_column(ratio=3)
    both.add_column(width=32)
    now = view.waiting_before[-1] if view.waiting_before else 0
    both.add_row(
        drawn, Group(Text("rows still to be delivered", "dim"), history, Text(f"{now:,} now", "yellow"))
    )
    return Panel(both, title="so far", title_align="left", border_style="dim", padding=(0, 1))


def _below(view: View, height: int) -> RenderableType:
    """What the step is about."""
    step = STEPS[view.step]
    body: RenderableType
    if step is BUILD:
        title, body = "what comes", _what_comes()
    elif step is ASK and view.answer is not None:
        title, body = f"asked in {AWAY}, which is cut off", _answered(view.answer)
    elif step in (CALM, CUT, ASK):
        title = "decided last, each on its own node: what, how sure, how soon"
        body = _decisions(view.sites, height - 2)
    elif not view.conflict_count:
        title, body = "conflicts: 0", Text(NO_CONFLICT, "dim")
    else:
        title = f"conflicts: {view.conflict_count:,} · the later write stays, the other is kept"
        body = _conflicts(view.conflicts, max(1, height - 2))
    return Panel(body, title=title, title_align="left", border_style="dim", padding=(0, 1))


def _decisions(sites: tuple[SiteView, ...], most: int) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=True)
    for justify, ratio in (("left", None), ("left", None), ("left", 1), ("right", None), ("right", None)):
        table.add_column(justify=justify, ratio=ratio, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for site in sites:
        for made in site.latest[: max(1, most // len(sites))]:
            score = "" if made.score is None else f"{made.score:.2f}"
            label = Text(" ".join(made.label.split()), "bold")
            table.add_row(
                Text(site.name, COLOURS[site.name]),
                made.about,
                label,
                score,
                words.duration(made.took_seconds),
            )
    return table


def _answered(answer: Answer) -> RenderableType:
    return Group(
        Text(answer.question, "bold"),
        Text(answer.text),
        Text(f"from its documents: {words.listed(answer.titles) or 'none'}", "dim"),
    )


def _what_comes() -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for step in STEPS[1:]:
        table.add_row(Text(step.title, "bold"), Text(step.short, "dim"))
    return table


def _conflicts(conflicts: tuple[Conflict, ...], most: int) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for conflict in conflicts[-most:]:
        table.add_row(
            Text(f"{conflict.column} of {conflict.item}"),
            Text.assemble((conflict.won, "bold green"), " by ", _site(conflict.won_by)),
            Text("beats", "dim"),
            Text.assemble((conflict.lost, "red strike"), " by ", _site(conflict.lost_by)),
            Text(f"{words.duration(conflict.later_by_seconds)} older", "dim"),
        )
    return table


def _site(name: str) -> tuple[str, str]:
    return (name, COLOURS.get(name, ""))
