"""PostgreSQL's errors, as ours: what the database refuses carries its code as a constraint's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.domain.errors import AtollError, DataError, PolicyDenied

if TYPE_CHECKING:
    from psycopg import Error


def explained(error: Error) -> AtollError:
    diagnosis = error.diag
    kind = PolicyDenied if error.sqlstate == "AT003" else DataError
    return kind(
        diagnosis.constraint_name or error.sqlstate or "database",
        diagnosis.message_primary or str(error).strip(),
        detail=diagnosis.message_detail or None,
        hint=diagnosis.message_hint or None,
    )
