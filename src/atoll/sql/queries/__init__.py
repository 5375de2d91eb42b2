"""Named statements. A file holds some; each opens with `-- name: description`."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import LiteralString

NAME = re.compile(r"^-- ([a-z_]+): .+$", re.MULTILINE)


@cache
def statements(file: str) -> dict[str, str]:
    text = resources.files("atoll.sql.queries").joinpath(f"{file}.sql").read_text("utf-8")
    names = list(NAME.finditer(text))
    ends = [m.start() for m in names[1:]] + [len(text)]
    return {m.group(1): text[m.end() : end].strip().rstrip(";") for m, end in zip(names, ends, strict=True)}


def query(file: str, name: str) -> LiteralString:
    """The statement `name` of queries/`file`.sql."""
    return statements(file)[name]
