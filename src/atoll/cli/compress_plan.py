"""`atoll compress plan`: which form of a model to take, by measuring several of them on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption

if TYPE_CHECKING:
    from atoll.compress.planning import Answer

HERE = "here"


def plan(
    model: Annotated[
        str, typer.Argument(help="A folder of safetensors, an ONNX file or folder, hf:REPO or oci:REF.")
    ],
    calibration: Annotated[
        Path, typer.Option(metavar="FILE", help="What the model will see: a text, or requests of ONNX.")
    ],
    judge: Annotated[
        Path, typer.Option(metavar="FILE", help="Others, to judge by; requests may have labels.")
    ],
    node: Annotated[
        str | None,
        typer.Option("--for", metavar="NODE", help="Memory is bounded: here, or what a node has free."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="The file may not be larger.")] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(min=0, help="It may lose this share of perplexity; of ONNX, of accuracy or likeness."),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="A token, or a call in ONNX, may take this long here.")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=2, max=4096, help="Rows to judge by: 64, or 512 in ONNX, if not given."),
    ] = None,
    calibration_rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows of the calibration.")] = 128,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the recommended file goes.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The drawing as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Make a model smaller in several ways, measure each, and recommend one; nothing is made twice."""
    from atoll.cli.fetching import files_of
    from atoll.cli.model_run import cache
    from atoll.cli.telling import telling

    if node is None and max_bytes is None and max_loss is None and max_ms is None:
        raise typer.BadParameter(
            "say what bounds the choice: --for here, --max-bytes, --max-loss or --max-ms"
        )
    if max_ms is not None:
        _check_time(max_ms, node)
    memory = None if node is None else _given_here(home) if node == HERE else _free_at(node, home)
    from atoll.compress.drawing import draw_lines, draw_png
    from atoll.compress.plan import plan as find
    from atoll.compress.plan import take
    from atoll.compress.planning import Question, Wishes

    wishes = Wishes(max_bytes, memory, max_loss, max_ms)
    with files_of(model, cache(), to_change=True) as files, telling() as say:
        place = Path.cwd() if files.origin else files.path.resolve().parent
        answer = find(Question(files.path, calibration, judge, wishes, place, calibration_rows, rows), say)
    advice = answer.advice
    if output is not None and advice.fits:
        take(answer, output)
    if png is not None:
        draw_png(answer.candidates, advice.name, png, answer.measure.loss)
    if as_json:
        typer.echo(json.dumps(_as_json(answer, asdict(wishes)), indent=1))
    else:
        _print(answer, draw_lines(answer.candidates))
        if output is not None and advice.fits:
            typer.echo(f"written: {output}")
    if not advice.fits:
        raise typer.Exit(1)


def _check_time(max_ms: float, node: str | None) -> None:
    if not max_ms > 0:
        raise typer.BadParameter("a token takes more than 0 ms", param_hint="--max-ms")
    if node not in (None, HERE):
        raise typer.BadParameter(
            f'how fast a model is was measured here, and says nothing of "{node}": ask there --for here',
            param_hint="--max-ms",
        )


def _free_at(node: str, home: str | None) -> int:
    """What the node has told the others that its models leave free."""
    from atoll.cli.home import find_home, running_postgres
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError

    rooms = {row["node"]: row for row in fetch(running_postgres(find_home(home)), "room", "everywhere")}
    if node not in rooms:
        raise DataError("node-unknown", f'there is no node "{node}"', hint=f"There are {', '.join(rooms)}.")
    if rooms[node]["bytes_max"] is None:
        raise DataError(
            "room-unknown",
            f'could not plan: "{node}" has not said what its models may take',
            hint="A node says so some seconds after its start, and not at all with --models off.",
        )
    return max(0, int(rooms[node]["bytes_max"] - rooms[node]["bytes_taken"]))


def _given_here(home: str | None) -> int:
    """What this machine's node gives to models, or would, if there is none yet."""
    from atoll.cli.home import find_home
    from atoll.domain.errors import ConfigError
    from atoll.node.config import load_settings

    try:
        file = find_home(home).config
    except ConfigError as error:
        if error.code != "no-home" or home is not None:
            raise
        file = Path(os.devnull)
    return load_settings({}, os.environ, file).models_memory


def _print(answer: Answer, drawing: list[str]) -> None:
    from atoll.cli.rows import print_table
    from atoll.compress.drawing import lettered

    rows = [
        (
            letter,
            f"{one.name} ←" if one.name == answer.advice.name else one.name,
            f"{one.bytes / 1e6:.2f}",
            f"{one.resident_bytes / 1e6:.0f} MB",
            f"{one.per_second:,.0f}",
            f"{one.quality:.4f}",
            f"{one.loss.middle:+.2%}",
            f"{one.loss.low:+.2%} to {one.loss.high:+.2%}",
        )
        for letter, one in lettered(answer.candidates)
    ]
    measure = answer.measure
    titles = ("", "", "MB", "memory", f"{measure.timed}s/s", measure.quality, "loss", "95 %")
    print_table(titles, rows, titles[2:])
    for name, why in answer.left_out.items():
        typer.echo(f"{name} was left out: {why}")
    typer.echo("\n" + "\n".join(drawing) + "\n")
    advice = answer.advice
    typer.echo(f"take {advice.name}: {advice.why}" if advice.fits else advice.why)
    typer.echo(f"it is {answer.files[advice.name]}")


def _as_json(answer: Answer, wishes: dict[str, Any]) -> dict[str, Any]:
    found = [{**asdict(one), "file": str(answer.files[one.name])} for one in answer.candidates]
    return {
        "wishes": wishes,
        "quality": answer.measure.quality,
        "candidates": found,
        "left_out": dict(answer.left_out),
        "recommended": asdict(answer.advice),
    }
