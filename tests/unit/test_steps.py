"""The next step towards receiving from a peer, as a table of cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.data.replication.steps import PeerSide, Step, Subscription, choose_step

HERE = "host=/run port=2"
GOOD = Subscription(2, is_enabled=True, conninfo=HERE, is_copied=True, is_running=True)
COPYING = Subscription(2, is_enabled=True, conninfo=HERE, is_copied=False, is_running=True)
OFF = Subscription(2, is_enabled=False, conninfo=HERE, is_copied=True, is_running=False)
HALF_DROPPED = replace(OFF, has_slot=False)
MOVED = Subscription(2, is_enabled=True, conninfo="host=/old port=2", is_copied=True, is_running=False)
KEPT = PeerSide("kept", missed=False)
NONE = PeerSide("none", missed=False)
MAKING = PeerSide("making", missed=False)
LOST = PeerSide("lost", missed=False)
MISSED = PeerSide("kept", missed=True)
COPY_LOST = PeerSide("kept", missed=False, lost_copy=True)


@pytest.mark.parametrize(
    ("is_member", "have", "told", "step"),
    [
        pytest.param(True, None, None, Step.NONE, id="without a link nothing can be begun"),
        pytest.param(True, None, NONE, Step.NONE, id="nothing is begun before the peer has a slot"),
        pytest.param(True, None, MAKING, Step.NONE, id="a slot that is being made is waited for"),
        pytest.param(True, None, KEPT, Step.SUBSCRIBE, id="a peer with a slot is subscribed to"),
        pytest.param(True, GOOD, KEPT, Step.NONE, id="what is well is left alone"),
        pytest.param(True, GOOD, None, Step.NONE, id="an absent peer is waited for"),
        pytest.param(True, GOOD, LOST, Step.BEGIN_ANEW, id="a lost slot is begun anew"),
        pytest.param(True, GOOD, NONE, Step.BEGIN_ANEW, id="a dropped slot is begun anew"),
        pytest.param(True, GOOD, MAKING, Step.NONE, id="a slot in the making is no reason to begin anew"),
        pytest.param(True, GOOD, MISSED, Step.SEED, id="changes that were missed are asked for as a copy"),
        pytest.param(True, COPYING, MISSED, Step.NONE, id="a copy waits for the first one to end"),
        pytest.param(True, COPYING, COPY_LOST, Step.BEGIN_ANEW, id="a copy whose slot is gone is begun anew"),
        pytest.param(True, OFF, None, Step.ENABLE, id="what somebody switched off is switched on"),
        pytest.param(True, HALF_DROPPED, None, Step.DROP, id="a drop that was broken off is ended"),
        pytest.param(True, MOVED, None, Step.REDIRECT, id="a moved home is dialled at its new place"),
        pytest.param(False, GOOD, None, Step.DROP, id="nothing is received from one who is no member"),
        pytest.param(False, None, None, Step.NONE, id="nothing is left of one who is no member"),
    ],
)
def test_the_next_step_is_chosen(
    is_member: bool, have: Subscription | None, told: PeerSide | None, step: Step
) -> None:
    assert choose_step(is_member=is_member, conninfo=HERE, have=have, told=told) is step


@pytest.mark.parametrize("have", [None, GOOD, COPYING, OFF, MOVED])
@pytest.mark.parametrize("told", [None, KEPT, NONE, MAKING, LOST, MISSED, COPY_LOST])
def test_a_member_is_never_dropped(have: Subscription | None, told: PeerSide | None) -> None:
    assert choose_step(is_member=True, conninfo=HERE, have=have, told=told) is not Step.DROP
