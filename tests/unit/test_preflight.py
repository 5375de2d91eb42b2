"""Judging somebody else's server: each thing that is missing is named, with a cure; nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.domain.errors import ConfigError
from atoll.node.postgres.preflight import SIZES, Facts, judge, refuse_unfit

WELL = Facts(
    version=180004,
    settings={**dict.fromkeys(SIZES, "48"), "wal_level": "logical", "max_slot_wal_keep_size": "1024"},
    role="manager",
    database="shop",
    encoding="UTF8",
    is_standby=False,
    is_superuser=True,
    may_replicate=True,
    may_create=True,
    may_subscribe=True,
    may_signal=True,
    may_switch=True,
    may_make_roles_of_link=True,
    other_owners=(),
    belongs_to=None,
    slots_elsewhere=(),
    triggers_elsewhere=(),
)
# What is missing, what it is called then, and what its cure says.
MISSING: list[tuple[dict[str, Any], str, str]] = [
    ({"version": 150012}, "server_version", "16 or newer"),
    ({"is_standby": True}, "pg_is_in_recovery", "primary"),
    ({"settings": {**WELL.settings, "wal_level": "replica"}}, "wal_level", "set wal_level = logical"),
    ({"settings": {**WELL.settings, "max_slot_wal_keep_size": "-1"}}, "max_slot_wal_keep_size", "= '4GB'"),
    *[
        ({"settings": {**WELL.settings, name: "1"}}, name, f"set {name} = {least}")
        for name, least in SIZES.items()
    ],
    ({"may_replicate": False}, "replication", 'alter role "manager" replication'),
    ({"may_subscribe": False}, "pg_create_subscription", "grant pg_create_subscription"),
    ({"may_make_roles_of_link": False}, "createrole", "createrole"),
    ({"may_signal": False}, "pg_signal_backend", "grant pg_signal_backend"),
    ({"may_switch": False}, "session_replication_role", "grant set on parameter"),
    ({"is_superuser": False}, "event triggers", "documentation"),
    ({"encoding": "LATIN1"}, "encoding", "UTF8"),
    ({"may_create": False}, "create", 'grant create on database "shop"'),
    ({"belongs_to": "berlin"}, "atoll.self", "database of its own"),
    ({"slots_elsewhere": ("atoll_to_2",)}, "slots", "server of its own"),
    ({"other_owners": ("clerk",)}, "ownership", 'grant "clerk" to "manager"'),
    ({"triggers_elsewhere": ("t on x",)}, "triggers", "enable trigger"),
]
WARNINGS = {"max_slot_wal_keep_size", "session_replication_role", "event triggers", "ownership", "triggers"}


def test_a_server_that_has_everything_is_found_well() -> None:
    assert judge(WELL) == []
    refuse_unfit("somewhere", [])


@pytest.mark.parametrize(("change", "name", "cure"), MISSING, ids=[name for _, name, _ in MISSING])
def test_what_is_missing_is_named_with_its_cure(change: dict[str, Any], name: str, cure: str) -> None:
    (finding,) = judge(replace(WELL, **change))
    assert finding.name == name
    assert cure in finding.cure
    assert finding.is_error == (name not in WARNINGS)
    assert finding.problem
    assert not finding.problem.endswith(".")


@given(st.sets(st.sampled_from(range(1, len(MISSING)))))
def test_everything_is_named_at_once(which: set[int]) -> None:
    facts = WELL
    for number in which:
        change = MISSING[number][0]
        if "settings" in change:
            changed = {
                name: value for name, value in change["settings"].items() if WELL.settings[name] != value
            }
            facts = replace(facts, settings={**facts.settings, **changed})
        else:
            facts = replace(facts, **change)
    found = judge(facts)
    assert {finding.name for finding in found} == {MISSING[number][1] for number in which}
    assert [finding.is_error for finding in found] == sorted((f.is_error for f in found), reverse=True)


def test_a_restart_is_asked_for_where_postgresql_needs_one() -> None:
    settings = {
        **WELL.settings,
        "wal_level": "replica",
        "max_slot_wal_keep_size": "-1",
        "max_wal_senders": "1",
    }
    found = {finding.name: finding.needs_restart for finding in judge(replace(WELL, settings=settings))}
    assert found == {"wal_level": True, "max_wal_senders": True, "max_slot_wal_keep_size": False}


def test_few_of_something_is_a_warning_and_almost_none_an_error() -> None:
    (few,) = judge(replace(WELL, settings={**WELL.settings, "max_wal_senders": "5"}))
    assert not few.is_error
    refuse_unfit("somewhere", [few])


def test_the_refusal_names_every_error_and_no_warning() -> None:
    found = judge(replace(WELL, may_subscribe=False, may_signal=False, may_switch=False))
    with pytest.raises(ConfigError) as caught:
        refuse_unfit("db:5432/shop", found)
    detail = caught.value.detail or ""
    assert caught.value.code == "database-unfit"
    assert "pg_create_subscription" in detail
    assert "pg_signal_backend" in detail
    assert "session_replication_role" not in detail
