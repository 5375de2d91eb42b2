"""`atoll route`: where requests for a name may be answered, and where one would go now."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.route_calibrate import calibrate
from atoll.domain.models import Skill

group = typer.Typer(help="Routes: where requests for a name may be answered.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the route.")]
OWN = ("here", "peer", "hub")
KINDS = (*OWN, "cloud")

group.command()(calibrate)


@group.command("set")
def set_route(
    name: NameArgument,
    model: Annotated[
        list[str],
        typer.Option(metavar="[KIND=]MODEL", help="Which model answers, or for one kind of place only."),
    ],
    prefer: Annotated[
        str,
        typer.Option(
            metavar="PLACES",
            help="here, peer, hub, cloud, a node's name or cloud:NAME, best first; no other.",
        ),
    ] = ",".join(OWN),
    deadline: Annotated[float, typer.Option(metavar="SECONDS", help="Until the answer's end.")] = 300.0,
    first_token: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Until a place's first word, else the next.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="What one request may cost.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SCOPE", help="Requests so labelled stay in the scope.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only who shows this key may use it.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="NAME", help="The budget that pays for clouds: atoll budget.")
    ] = None,
    hedge_after: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Ask a second place where the first is so late.")
    ] = None,
    first: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that is asked before the others.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="How sure it is: mean_logprob, min_margin, entropy, agreement; of tensors score."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="From 0 to 1: where it is less sure, the others are asked.")
    ] = None,
    cascade: Annotated[
        str | None, typer.Option(metavar="JSON", help="All of that, as `route calibrate` prints it.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="exact|JSON", help="Give answers again; to like questions as `cache calibrate` prints."
        ),
    ] = None,
    cache_for: Annotated[str | None, typer.Option(metavar="TIME", help="For how long; a day.")] = None,
    policy_expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Where no other node was heard for so long: here only.")
    ] = None,
    unreachable: Annotated[
        str, typer.Option(help="Where nobody can be reached: refuse, here (provisionally) or queue.")
    ] = "refuse",
    home: HomeOption = None,
) -> None:
    """Say where requests for a name may be answered, on every node. What was said before is replaced."""
    from psycopg.types.json import Jsonb

    from atoll.cli.rows import change
    from atoll.start import start_models

    told = _cascade(cascade, first=first, measure=measure, threshold=threshold)
    again = _cache(cache, cache_for)
    places = [word.strip() for word in prefer.split(",") if word.strip()]
    wish = {
        "name": name,
        "models": Jsonb(_models(model)),
        "prefer": places,
        "deadline_seconds": deadline,
        "first_token_seconds": first_token,
        "max_cost": max_cost,
        "labels": Jsonb(dict(_pair(one) for one in label or ())),
        "hedge_after_seconds": hedge_after,
        "keys": key or [],
        "budget": budget,
        "cascade": None if told is None else Jsonb(told),
        "cache": None if again is None else Jsonb(again),
        "policy_expires_seconds": None
        if policy_expires is None
        else flags.duration("policy-expires", policy_expires),
        "unreachable": unreachable,
    }
    (row,) = change(running_postgres(find_home(home)), "routes", "set", wish)
    typer.echo(f"{name}: {', then '.join(places)}")
    for stranger in sorted({*row["unknown"]} - {model.name for model in start_models()}):
        typer.echo(f'note: no node has a model "{stranger}" yet; see: atoll model list', err=True)


def _models(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in given:
        kind, is_said, model = one.partition("=")
        for place in (kind,) if is_said else OWN:
            found.setdefault(place, []).append(model if is_said else one)
    return found


def _cascade(given: str | None, **said: Any) -> dict[str, Any] | None:
    """What is said by itself comes before what stands in the JSON."""
    from atoll.router.policy.cascade import parse

    own = {name: value for name, value in said.items() if value is not None}
    if given is None and not own:
        return None
    try:
        told = json.loads(given or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--cascade") from None
    if isinstance(told, dict):
        told = told.get("cascade", told)
    if isinstance(told, dict):
        told = {**told, **own}
    parse(told)
    return dict(told)


def _cache(given: str | None, lasting: str | None) -> dict[str, Any] | None:
    from atoll.router.policy.again import parse

    if given is None:
        if lasting is not None:
            raise typer.BadParameter("it needs --cache", param_hint="--cache-for")
        return None
    try:
        told = {} if given == "exact" else json.loads(given)
    except ValueError as error:
        raise typer.BadParameter(f'it is neither "exact" nor JSON: {error}', param_hint="--cache") from None
    if isinstance(told, dict):
        told = told.get("cache", told)
        told = told if lasting is None else {**told, "seconds": flags.duration("cache-for", lasting)}
    parse(told)
    return dict(told)


def _pair(given: str) -> tuple[str, str]:
    name, _, scope = given.partition("=")
    if not name or not scope:
        raise typer.BadParameter(f'"{given}" is not NAME=SCOPE', param_hint="--label")
    return name, scope


@group.command("list")
def list_routes(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the routes."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "routes", "all")
    if as_json:
        typer.echo(json.dumps([_shown(row) for row in found], indent=1))
        return
    titles = (
        "route",
        "prefers",
        "models",
        "deadline",
        "cost",
        "labels",
        "keys",
        "cache",
        "unreachable",
        "expires",
    )
    print_table(titles, [_cells(row) for row in found], ("deadline", "cost"))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "me"}


def _cells(row: dict[str, Any]) -> list[str]:
    by_models: dict[str, list[str]] = {}
    for kind, models in row["models"].items():
        by_models.setdefault(", ".join(models), []).append(kind)
    is_one = len(by_models) == 1
    models = [said if is_one else f"{'/'.join(kinds)}: {said}" for said, kinds in by_models.items()]
    return [
        row["name"],
        ", ".join(row["prefer"]),
        "; ".join(models),
        f"{row['deadline_seconds']:g} s",
        "" if row["max_cost"] is None else f"{row['max_cost']:g}",
        ", ".join(f"{label}={scope}" for label, scope in row["labels"].items()),
        ", ".join(row["options"].get("keys", [])),
        _again(row["options"].get("cache")),
        row["options"].get("unreachable", ""),
        _age(row["options"].get("policy_expires_seconds")),
    ]


def _again(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    return "exact" if told.get("encoder") is None else f"alike by {told['encoder']}"


def _age(seconds: float | None) -> str:
    """In days, where they are whole."""
    if seconds is None:
        return ""
    size, word = next(
        (one for one in ((86400, "d"), (3600, "h"), (60, "min")) if seconds % one[0] == 0), (1, "s")
    )
    return f"{seconds / size:g} {word}"


@group.command()
def show(name: NameArgument, home: HomeOption = None) -> None:
    """Show everything that a route says, as JSON."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError

    rows = fetch(running_postgres(find_home(home)), "routes", "all")
    found = next((row for row in rows if row["name"] == name), None)
    if found is None:
        raise DataError("route-unknown", f'there is no route "{name}"', hint="See: atoll route list")
    typer.echo(json.dumps(_shown(found), indent=1))


@group.command()
def rm(name: NameArgument, home: HomeOption = None) -> None:
    """Remove a route, on all nodes."""
    from atoll.cli.rows import change

    change(running_postgres(find_home(home)), "routes", "remove", (name,))
    typer.echo(f"{name} is removed")


def _tell_reach(found: dict[str, Any]) -> None:
    """What holds where others are away."""
    instead = {
        "here": "this node's own model answers, provisionally",
        "queue": "the request is answered later",
    }
    if (said := instead.get(found.get("unreachable", ""))) is not None:
        typer.echo(f"where nobody can be reached: {said}")
    if (expires := found.get("policy_expires_seconds")) is not None:
        typer.echo(f"where no other node was heard for {_age(expires)}: it leads nowhere but here")


@group.command()
def explain(
    name: NameArgument,
    tokens_in: Annotated[int, typer.Option(min=0, help="About how much is asked.")] = 500,
    tokens_out: Annotated[
        int | None, typer.Option(min=1, help="The request's max_tokens; it says none, if not given.")
    ] = None,
    skill: Annotated[Skill, typer.Option(help="What is asked for.")] = Skill.GENERATE,
    need: Annotated[
        list[str] | None, typer.Option(help="What else: tools, schema, logprobs or image.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option(help="The scope of a row that is quoted in it.")] = None,
    label: Annotated[str | None, typer.Option(help="The request's label.")] = None,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="The key that is shown.")] = None,
    place: Annotated[str | None, typer.Option(help="The places that the request is for.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="What it may cost.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Show where a request would go now, in which order, and why not elsewhere."""
    from atoll.cli.asking import asked
    from atoll.cli.rows import print_table

    wish = {
        "route": name,
        "skill": skill,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "needs": need or [],
        "scopes": scope or [],
        "label": label,
        "key": key,
        "place": place,
        "max_cost": max_cost,
    }
    with asked(find_home(home), "/api/routes/explain", wish) as answer:
        found = json.loads(answer.read())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [
        [str(number), one["place"], one["model"], f"{one['expected_seconds']:.2f} s", f"{one['cost']:g}", ""]
        for number, one in enumerate(found["places"], 1)
    ]
    rows += [["-", one["place"], one["model"], "", "", "; ".join(one["why"])] for one in found["out"]]
    if not rows:
        typer.echo("no place has a model of this route")
        return
    titles = ["", "place", "model", "expected", "cost", "why not"]
    if (cascade := found.get("cascade")) is not None:
        titles.insert(3, "asked")
        for row, one in zip(rows, [*found["places"], *found["out"]], strict=True):
            row.insert(3, one["turn"] or "never")
    print_table(titles, rows, ("expected", "cost"))
    _tell_reach(found)
    if cascade is not None:
        measure, threshold = cascade["measure"], cascade["threshold"]
        typer.echo(f"then: where the {measure} of {cascade['first']} is below {threshold:g}")
