"""An error says the same wherever it is raised."""

from __future__ import annotations

import pickle

from atoll.domain.errors import DataError, LinkError


def test_an_error_of_another_process_says_what_it_said_there() -> None:
    told = LinkError("peer-away", "could not reach it", detail="Nobody answers.", hint="Try again.")
    told.retry_after_seconds = 2.5
    group = ExceptionGroup("of a child", [told, DataError("rows-bad", "cannot read it")])
    first, second = pickle.loads(pickle.dumps(group)).exceptions
    assert vars(first) == vars(told)
    assert (type(first), str(first)) == (LinkError, "could not reach it")
    assert (second.code, second.detail) == ("rows-bad", None)
