"""When our draft becomes ready for review, and when people decide about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.forge.changes import ChangeEventKind, ChangeState, CheckConclusion, Mergeability, Part
from coding_agent_core.rounds.notes import notes_of
from coding_agent_core.task.round_cause import OWN_STATUS, RoundKind

from tests.unit.core_rounds.making import (
    ANNA,
    LATER,
    OURS,
    POLICY,
    at,
    change,
    check,
    decide,
    event,
    remark,
    thread,
)

DRAFTS = replace(POLICY, draft=True)
GREEN = check("CI / test", CheckConclusion.SUCCESS)
WAITS = "The pull request is a draft until its checks have passed."


@pytest.mark.parametrize(
    ("fields", "ready", "waits"),
    [
        pytest.param({"checks": (GREEN,)}, True, False, id="all checks have passed"),
        pytest.param({}, True, False, id="no check has appeared"),
        pytest.param(
            {"checks": (GREEN, check("b", CheckConclusion.SKIPPED), check("c", CheckConclusion.NEUTRAL))},
            True,
            False,
            id="some checks did not have to run",
        ),
        pytest.param(
            {"checks": (GREEN, check(OWN_STATUS, None))}, True, False, id="our own status is no check"
        ),
        pytest.param({"checks": (GREEN, check("b", None))}, False, True, id="a check runs"),
        pytest.param({"checks": (check("b", None, began=-9000),)}, False, True, id="a check hangs"),
        pytest.param(
            {"checks": (check(),), "base_checks": (check(),)}, False, True, id="red on the base too"
        ),
        pytest.param({"checks": (check("b", CheckConclusion.CANCELLED),)}, False, True, id="cancelled"),
        pytest.param(
            {"checks": (check("b", CheckConclusion.ACTION_REQUIRED),)}, False, True, id="waits for a person"
        ),
        pytest.param({"checks_problem": "our token may not read checks"}, False, True, id="unreadable"),
        pytest.param({"mergeability": Mergeability.UNKNOWN}, False, True, id="mergeability is not known"),
        pytest.param({"mergeability": Mergeability.NOT_SHOWN}, True, False, id="mergeability is not shown"),
        pytest.param({"mergeability": Mergeability.CONFLICT}, False, True, id="a conflict"),
        pytest.param({"checks": (check(),)}, False, True, id="a round fixes it first"),
        pytest.param(
            {"checks": (GREEN,), "threads": (thread(remark(1)),)}, False, False, id="a round answers first"
        ),
        pytest.param({"draft": False}, False, False, id="no draft"),
        pytest.param(
            {"events": (event(ChangeEventKind.DRAFTED, ANNA),)}, False, False, id="a person made it a draft"
        ),
        pytest.param(
            {"events": (event(ChangeEventKind.READY, OURS), event(ChangeEventKind.DRAFTED, ANNA, 600))},
            False,
            False,
            id="a person made it a draft again",
        ),
        pytest.param(
            {"events": (event(ChangeEventKind.READY, OURS),)}, False, False, id="we have marked it as ready"
        ),
        pytest.param({"left_out": {Part.EVENTS}}, False, False, id="a person may have decided before"),
        pytest.param(
            {"checks": (GREEN,), "left_out": {Part.CHECKS}}, False, True, id="some checks were not read"
        ),
        pytest.param({"author": ANNA}, False, False, id="a person's change"),
        pytest.param({"state": ChangeState.CLOSED}, False, False, id="closed"),
        pytest.param({"labels": frozenset({POLICY.hands_off_label})}, False, False, id="hands off"),
    ],
)
def test_a_draft(fields: dict[str, Any], ready: bool, waits: bool) -> None:
    work = decide(change(**{"draft": True} | fields), policy=DRAFTS)
    assert (work.ready, WAITS in notes_of(work, DRAFTS)) == (ready, waits)
    off = decide(change(**{"draft": True} | fields))
    assert (off.ready, WAITS in notes_of(off, POLICY)) == (False, False)


def test_it_is_ready_when_no_check_has_ended_for_a_while() -> None:
    snapshot = change(draft=True, checks=(GREEN,))
    early = decide(snapshot, policy=DRAFTS, now=at(110))
    assert not early.ready
    assert early.decide_again == at(100) + DRAFTS.checks_quiet
    assert [one.kind for one in early.waiting] == [RoundKind.CHECKS]
    assert decide(snapshot, policy=DRAFTS, now=early.decide_again).ready


def test_it_waits_for_the_run_that_works_on_it() -> None:
    assert not decide(change(draft=True, checks=(GREEN,)), policy=DRAFTS, active=True).ready


def test_an_old_draft_becomes_ready_although_it_has_no_more_rounds() -> None:
    opened = LATER - 2 * DRAFTS.max_age
    snapshot = change(draft=True, created_at=opened, updated_at=opened, head_at=opened + timedelta(hours=1))
    assert decide(snapshot, policy=DRAFTS).ready
