"""Files of examples whose right answers are known: lines of JSON, or .csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError


def rows_of(file: Path) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            if file.suffix == ".csv":
                yield from csv.DictReader(lines)
                return
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError("request-malformed", f"cannot read {file}", detail=f"{error}.") from error
