"""`atoll topology` and `atoll link`: who links to whom, and changing that by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atoll.data.replication.topology import Topology


def topology(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    as_dot: Annotated[bool, typer.Option("--dot", help="As a graph that Graphviz draws.")] = False,
    home: HomeOption = None,
) -> None:
    """Draw who links to whom: edges below their hub, hubs below their cloud."""
    from atoll.cli.rows import fetch
    from atoll.data.replication.topology import Member, Tie, plan

    postgres = running_postgres(find_home(home))
    nodes = {row["number"]: row for row in fetch(postgres, "fleet", "members")}
    ties = [Tie(row["a"], row["b"], row["kind"] == "cut") for row in fetch(postgres, "fleet", "ties")]
    members = [Member(row["number"], row["region"], row["tier"], row["name"]) for row in nodes.values()]
    planned = plan(members, ties)
    if as_json:
        typer.echo(json.dumps(_facts(planned, nodes), indent=1))
    elif as_dot:
        typer.echo("\n".join(_dot(planned, nodes)))
    else:
        typer.echo("\n".join(_tree(planned, nodes)))


def _facts(planned: Topology, nodes: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "node": nodes[number]["name"],
            "region": nodes[number]["region"],
            "tier": nodes[number]["tier"],
            "upstreams": [nodes[upper]["name"] for upper in planned.upstreams[number]],
            "neighbours": {nodes[other]["name"]: str(role) for other, role in sorted(roles.items())},
        }
        for number, roles in sorted(planned.neighbours.items())
    ]


def _dot(planned: Topology, nodes: Mapping[int, dict[str, Any]]) -> list[str]:
    shapes = {"cloud": "ellipse", "hub": "box", "edge": "plaintext"}
    lines = ["graph atoll {"]
    for number in sorted(nodes):
        label = json.dumps(f"{nodes[number]['name']}\n{nodes[number]['region']}")
        lines.append(f"  n{number} [label={label}, shape={shapes[nodes[number]['tier']]}];")
    for a, b in planned.links():
        is_spare = _is_spare(planned, a, b) or _is_spare(planned, b, a)
        lines.append(f"  n{a} -- n{b}{' [style=dashed]' if is_spare else ''};")
    return [*lines, "}"]


def _is_spare(planned: Topology, lower: int, upper: int) -> bool:
    return upper in list(planned.upstreams[lower])[1:]


def _tree(planned: Topology, nodes: Mapping[int, dict[str, Any]]) -> list[str]:
    """Each node below the upstream that it prefers."""
    below: dict[int | None, list[int]] = {}
    for number in sorted(nodes):
        uppers = planned.upstreams[number]
        below.setdefault(uppers[0] if uppers else None, []).append(number)
    lines: list[str] = []

    def draw(number: int, indent: str, is_last: bool, depth: int) -> None:
        branch = "" if depth == 0 else ("└─ " if is_last else "├─ ")
        lines.append(f"{indent}{branch}{_words(planned, nodes, number)}")
        inner = indent + ("" if depth == 0 else "   " if is_last else "│  ")
        children = below.get(number, [])
        for child in children:
            draw(child, inner, child == children[-1], depth + 1)

    for top in below.get(None, []):
        draw(top, "", False, 0)
    return lines


def _words(planned: Topology, nodes: Mapping[int, dict[str, Any]], number: int) -> str:
    row = nodes[number]
    words = [f"{row['name']} ({row['tier']}, {row['region']})"]
    if row["is_me"]:
        words.append("this node")
    elif row["link"]:
        words.append(f"link {row['link']}")
    if len(uppers := planned.upstreams[number]) > 1:
        words.append(f"stands by: {', '.join(nodes[upper]['name'] for upper in uppers[1:])}")
    for role, word in (("side", "beside"), ("tie", "linked by hand to"), ("kin", "of one region with")):
        found = [nodes[other]["name"] for other, is_a in planned.neighbours[number].items() if is_a == role]
        if found:
            words.append(f"{word} {_some(found)}")
    return ", ".join(words)


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def link(
    a: Annotated[str, typer.Argument(help="Name or number of a node.")],
    b: Annotated[str, typer.Argument(help="Name or number of another one.")],
    cut: Annotated[bool, typer.Option("--cut", help="No link, whatever the tiers say.")] = False,
    auto: Annotated[bool, typer.Option("--auto", help="As the tiers say: forget what was decided.")] = False,
    why: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who read it later.")] = "",
    home: HomeOption = None,
) -> None:
    """Decide by hand whether two nodes have a link. Everything passes over a link made by hand."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import ConfigError

    if cut and auto:
        raise ConfigError("link-choice", "--cut and --auto contradict each other")
    postgres = running_postgres(find_home(home))
    kind = "cut" if cut else "auto" if auto else "link"
    fetch(postgres, "fleet", "tie", (a, b, kind, why))
    said = {"cut": "have no link now", "auto": "are linked as their tiers say", "link": "are linked by hand"}
    typer.echo(f"{a} and {b} {said[kind]}")
