"""Which failed checks cause a round, and what else is done or said about them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.forge.changes import CheckConclusion, CheckKind, CheckResult, CheckState, Mergeability
from coding_agent_core.rounds.checks import fingerprints
from coding_agent_core.task.model import ROUND_CAUSE_LIMIT, Cause
from coding_agent_core.task.round_cause import IDS_LIMIT, OWN_STATUS, RoundKind, StopReason, Work
from coding_agent_core.task.round_record import RERUNS_LIMIT, RoundEnd, RoundRecord
from coding_agent_core.task.round_report import cause_of, recorded, trigger_of
from coding_agent_core.task.verification import NOT_CHECKED, RED_ON_BASE, VERIFY_STATUS

from tests.unit.core_rounds.making import (
    HEAD,
    LATER,
    POLICY,
    asked_again,
    at,
    change,
    check,
    decide,
    ended,
    reasons,
    rounds,
    sha,
)

GREEN, RED, LATE = CheckConclusion.SUCCESS, CheckConclusion.FAILURE, CheckConclusion.TIMED_OUT
BROKEN = CheckConclusion.INFRASTRUCTURE
RUNNING = None


@pytest.mark.parametrize(
    ("checks", "names"),
    [
        pytest.param((), (), id="no checks"),
        pytest.param((check(conclusion=GREEN),), (), id="green"),
        pytest.param((check(),), ("CI / test",), id="red"),
        pytest.param((check(required=False),), ("CI / test",), id="red, not required"),
        pytest.param((check(conclusion=LATE),), ("CI / test",), id="timed out"),
        pytest.param((check("b"), check("a"), check("c", GREEN)), ("a", "b"), id="one cause for all"),
        pytest.param(
            (check("a", event="push"), check("a", event="pull_request")), ("a",), id="one name, two events"
        ),
        *(
            pytest.param((check(conclusion=conclusion),), (), id=str(conclusion))
            for conclusion in CheckConclusion
            if conclusion not in {RED, LATE}
        ),
        pytest.param((check(OWN_STATUS, kind=CheckKind.STATUS, run=""),), (), id="our own status"),
        pytest.param((check(OWN_STATUS),), (OWN_STATUS,), id="a job of the repository with its name"),
        pytest.param((check(f"{OWN_STATUS}/verify"),), ("coding-agent/verify",), id="our verification"),
        pytest.param((check("ci", kind=CheckKind.STATUS, run=""),), ("ci",), id="a commit status"),
        pytest.param((check(began=None, ended=None),), ("CI / test",), id="unknown times"),
        pytest.param(
            (check(), check("lint", GREEN, earlier=(RED,))), ("CI / test",), id="another was red before"
        ),
        pytest.param((check(earlier=(RED, BROKEN)),), ("CI / test",), id="red again"),
    ],
)
def test_causes(checks: tuple[CheckResult, ...], names: tuple[str, ...]) -> None:
    work = decide(change(checks=checks))
    assert [(cause.kind, cause.ids) for cause in work.due] == ([(RoundKind.CHECKS, names)] if names else [])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("1 of 2 commands fails: make test (exit code 2)", [], id="red"),
        pytest.param(f"{RED_ON_BASE}: 1 of 2 commands fails", [StopReason.RED_ON_BASE], id="red on the base"),
        pytest.param(f"{NOT_CHECKED}: the pod was evicted.", [StopReason.INFRASTRUCTURE], id="no result"),
    ],
)
def test_a_red_verification_is_a_cause_if_a_round_can_fix_it(said: str, expected: list[StopReason]) -> None:
    work = decide(change(checks=(check(VERIFY_STATUS, kind=CheckKind.STATUS, run="", errors=said),)))
    assert reasons(work) == expected
    assert [cause.ids for cause in work.due] == ([] if expected else [(VERIFY_STATUS,)])


@pytest.mark.parametrize(
    ("second", "due", "until"),
    [
        pytest.param(129, False, at(130), id="ended a moment ago"),
        pytest.param(130, True, None, id="quiet"),
    ],
)
def test_checks_settle_after_the_last_has_ended(second: float, due: bool, until: object) -> None:
    work = decide(change(checks=(check(ended=100), check("b", GREEN, ended=90))), now=at(second))
    assert (bool(work.due), work.decide_again) == (due, until)


def test_green_checks_ask_for_no_further_look() -> None:
    assert decide(change(checks=(check(conclusion=GREEN, ended=100),)), now=at(101)).decide_again is None


def test_a_running_check_holds_back_the_others_until_it_hangs() -> None:
    snapshot = change(checks=(check("a", ended=50), check("slow", RUNNING, began=40)))
    hangs = at(40) + POLICY.check_hangs_after
    waits = decide(snapshot, now=at(3600))
    assert (waits.due, waits.decide_again) == ((), hangs)
    assert "slow" in waits.waiting[0].why
    work = decide(snapshot, now=hangs)
    assert work.due[0].ids == ("a",)
    assert work.notes == ("These checks hang, and the others no longer wait for them: slow.",)


def test_a_check_that_never_started_hangs_from_the_push_on() -> None:
    queued = replace(check("slow", RUNNING, began=None), state=CheckState.WAITING)
    snapshot = change(checks=(check("a", ended=50), queued))
    assert not decide(snapshot, now=at(7199)).due
    assert decide(snapshot, now=at(7200)).due


def test_a_check_that_hangs_and_fails_later_causes_its_own_round() -> None:
    snapshot = change(checks=(check("a"), check("slow", RUNNING)))
    late = at(9000)
    record = ended(RoundRecord(), decide(snapshot, now=late).due[0], RoundEnd.NO_PUSH)
    assert reasons(decide(snapshot, record, now=late)) == [StopReason.NOTHING_PUSHED]
    failed = replace(snapshot, checks=(check("a"), check("slow", ended=8000)))
    assert decide(failed, record, now=late).due[0].ids == ("a", "slow")


def test_our_status_that_is_pending_holds_back_nothing() -> None:
    status = check(OWN_STATUS, RUNNING, kind=CheckKind.STATUS, began=3599)
    assert decide(change(checks=(check(), status))).due


def test_a_check_that_fails_on_the_base_too_causes_no_round() -> None:
    base = (check("a", event="schedule"), check("b", GREEN))
    work = decide(change(checks=(check("a"),), base_checks=base))
    assert (work.due, reasons(work)) == ((), [StopReason.RED_ON_BASE])
    assert "a" in work.stops[0].sentence
    some = decide(change(checks=(check("a"), check("b", required=True)), base_checks=base))
    assert (some.due[0].ids, reasons(some)) == (("b",), [StopReason.RED_ON_BASE])


def test_checks_of_the_base_that_did_not_end_say_nothing() -> None:
    assert decide(change(checks=(check("a"),), base_checks=(check("a", RUNNING),))).due


def test_unreadable_checks_are_said() -> None:
    work = decide(change(checks_problem="our token may not read checks"))
    assert work.notes == ("The checks cannot be read: our token may not read checks.",)


def test_checks_without_a_result_are_said() -> None:
    work = decide(change(checks=(check("a", CheckConclusion.ACTION_REQUIRED, required=True),)))
    assert work.notes == ("These checks ended without a result (action required): a (required).",)


@pytest.mark.parametrize(
    ("first", "times", "reason"),
    [
        pytest.param(check(conclusion=BROKEN), 1, StopReason.INFRASTRUCTURE, id="infrastructure"),
        pytest.param(check(earlier=(GREEN,)), 2, StopReason.FLAKY, id="flaky"),
    ],
)
def test_checks_run_again_a_limited_number_of_times(
    first: CheckResult, times: int, reason: StopReason
) -> None:
    record = RoundRecord()
    for number in range(times):
        snapshot = change(checks=(replace(first, id=str(number)),))
        work = decide(snapshot, record)
        assert (work.due, [rerun.run for rerun in work.reruns]) == ((), [str(number)])
        assert work.waiting[0].why == "These checks are going to run again: CI / test."
        record = asked_again(record, work.reruns[0], LATER)
        seen_too_early = decide(snapshot, record)
        assert (seen_too_early.reruns, seen_too_early.stops) == ((), ())
        assert seen_too_early.waiting[0].why == "The forge was asked to run these checks again: CI / test."
    work = decide(change(checks=(replace(first, id="last"),)), record)
    assert (work.due, work.reruns, reasons(work)) == ((), (), [reason])


def test_reruns_are_limited_after_the_forges_clock_was_set_back() -> None:
    """The re-run of the head before has a later time than those of this head."""
    earlier = (GREEN, RED)
    [rerun] = decide(change(checks=(check(earlier=earlier),)), now=LATER + timedelta(seconds=90)).reruns
    record, made = asked_again(RoundRecord(), rerun, LATER + timedelta(seconds=90)), 0
    for number in range(5):
        flaky = check(run=str(901 + number), earlier=earlier)
        for one in decide(change(checks=(flaky,), head_commit=sha("head 2")), record).reruns:
            record, made = asked_again(record, one, LATER), made + 1
    assert made == 2


def test_a_check_that_passes_when_it_runs_again_leaves_nothing_to_do() -> None:
    record = asked_again(RoundRecord(), decide(change(checks=(check(earlier=(GREEN,)),))).reruns[0], LATER)
    work = decide(change(checks=(check(conclusion=GREEN, run="901", earlier=(GREEN, RED)),)), record)
    assert work == Work()


def test_a_check_that_ran_again_and_failed_by_itself_causes_a_round() -> None:
    record = asked_again(RoundRecord(), decide(change(checks=(check(conclusion=BROKEN),))).reruns[0], LATER)
    assert decide(change(checks=(check(run="901", earlier=(BROKEN,)),)), record).due


def test_a_refused_rerun_is_not_asked_again_and_nobody_waits_for_it() -> None:
    snapshot = change(checks=(check("a"), check("b", earlier=(GREEN,))))
    record = asked_again(RoundRecord(), decide(snapshot).reruns[0], LATER, refused=True)
    work = decide(snapshot, record)
    assert (work.due[0].ids, work.reruns, reasons(work)) == (("a",), (), [StopReason.FLAKY])
    assert work.notes == (
        "GitHub refused to run these checks again: b. Check that the bot's token has the permission "
        "`Actions: write` and the run is at most 30 days old.",
    )


def test_a_rerun_that_never_appears_is_not_waited_for_forever() -> None:
    snapshot = change(checks=(check(conclusion=BROKEN),))
    record = asked_again(RoundRecord(), decide(snapshot).reruns[0], LATER)
    work = decide(snapshot, record, now=LATER + POLICY.check_hangs_after)
    assert (work.waiting, reasons(work)) == ((), [StopReason.INFRASTRUCTURE])


def test_a_rerun_whose_answer_was_lost_is_not_waited_for_long() -> None:
    snapshot = change(checks=(check("a"), check("b", BROKEN)))
    record = asked_again(RoundRecord(), decide(snapshot).reruns[0], LATER)
    [entry] = record.reruns
    lost = record.model_copy(update={"reruns": (entry.model_copy(update={"unanswered": True}),)})
    assert not decide(snapshot, lost, now=LATER + timedelta(minutes=4)).due
    work = decide(snapshot, lost, now=LATER + timedelta(minutes=5))
    assert (work.due[0].ids, work.reruns, reasons(work)) == (("a",), (), [StopReason.INFRASTRUCTURE])
    assert not decide(snapshot, record, now=LATER + timedelta(minutes=5)).due


def test_what_the_forge_cannot_run_again_is_said() -> None:
    work = decide(change(checks=(check(conclusion=BROKEN, kind=CheckKind.CHECK_RUN),)))
    assert (work.reruns, reasons(work)) == ((), [StopReason.INFRASTRUCTURE])


def test_nothing_runs_again_while_checks_run_or_a_round_works_or_the_base_conflicts() -> None:
    broken = check("a", BROKEN)
    assert not decide(change(checks=(broken, check("b", RUNNING, began=3000)))).reruns
    assert not decide(change(checks=(broken,)), active=True).reruns
    assert not decide(change(checks=(broken,), mergeability=Mergeability.CONFLICT)).reruns


def test_a_head_has_a_limited_number_of_reruns() -> None:
    record = RoundRecord()
    made = 0
    for start in range(0, 60, 12):
        some = tuple(check(f"c{number}", BROKEN, run=str(number)) for number in range(start, start + 12))
        work = decide(change(checks=some), record)
        made += len(work.reruns)
        for rerun in work.reruns:
            record = asked_again(record, rerun, LATER)
    assert made == RERUNS_LIMIT
    other = decide(change(head_commit=sha("head 2"), checks=(check(conclusion=BROKEN),)), record)
    assert len(other.reruns) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("E  assert 1 == 2", "E  assert 1 == 2", True),
        ("E  assert 1 == 2", "E  assert 1 == 3", False),
        ("3 failed, 7 passed in 0.12s", "3 failed, 7 passed in 4.56s", True),
        ("3 failed, 7 passed in 0.12s", "1 failed, 9 passed in 0.12s", False),
        ("app.py:12: in main", "app.py:31: in main", True),
        ('File "app.py", line 12', 'File "app.py", line 31', True),
        ("2026-11-25T12:00:00.123Z error", "2026-11-26T13:14:15.999Z error", True),
        ("object at 0x7f12ab", "object at 0x7fffff", True),
        ("at commit 0a1b2c3d", "at commit 9f8e7d6c", True),
        ("/tmp/pytest-12/test0: gone", "/tmp/pytest-99/test0: gone", True),
        ("connect 127.0.0.1:40001 refused", "connect 127.0.0.1:40002 refused", True),
        ("\x1b[31mboom\x1b[0m  now", "boom now", True),
        ("FAILED test_a", "FAILED test_b", False),
    ],
)
def test_fingerprints_ignore_what_differs_in_each_run(one: str, other: str, same: bool) -> None:
    assert (fingerprints([check(errors=one)]) == fingerprints([check(errors=other)])) is same


def test_unknown_errors_are_never_the_same() -> None:
    assert fingerprints([check("a", errors="boom"), check("b", errors=" ")]) == ()


def failing(errors: str, head: str, *names: str) -> Any:
    checks = tuple(check(name, errors=errors) for name in names or ("CI / test",))
    return change(head_commit=head, checks=checks)


@pytest.mark.parametrize(
    ("second", "stops"),
    [
        pytest.param(failing("boom", sha("2")), [StopReason.NO_PROGRESS], id="the same"),
        pytest.param(failing("bang", sha("2")), [], id="another error"),
        pytest.param(failing("", sha("2")), [], id="errors not read yet"),
        pytest.param(failing("boom", sha("2"), "lint"), [], id="another check"),
        pytest.param(
            failing("boom", sha("2"), "CI / test", "lint"), [StopReason.NO_PROGRESS], id="one more check"
        ),
    ],
)
def test_no_progress(second: Any, stops: list[StopReason]) -> None:
    record = ended(RoundRecord(), decide(failing("boom", HEAD)).due[0], head=sha("2"))
    work = decide(second, record)
    assert reasons(work) == stops
    assert bool(work.due) is not bool(stops)


def test_fewer_failed_checks_are_progress() -> None:
    record = ended(RoundRecord(), decide(failing("boom", HEAD, "a", "b")).due[0], head=sha("2"))
    assert decide(failing("boom", sha("2"), "a"), record).due[0].count == "round 2 of 3"


def test_no_progress_that_only_the_logs_showed_ends_the_rounds_too() -> None:
    """The look has no logs. The round reads them, finds the same errors, and ends before its model starts."""
    record = ended(RoundRecord(), decide(failing("boom", HEAD)).due[0], head=sha("2"))
    due = decide(failing("", sha("2")), record).due[0]
    record = ended(record, due, RoundEnd.NO_PROGRESS)
    assert reasons(decide(failing("", sha("2")), record)) == [StopReason.NO_PROGRESS]


def test_many_failed_checks_are_fixed_in_parts() -> None:
    snapshot = change(checks=tuple(check(f"c{number:03}") for number in range(IDS_LIMIT + 5)))
    first = decide(snapshot).due[0]
    assert len(first.ids) == len(first.keys) == IDS_LIMIT
    record = ended(RoundRecord(), first, RoundEnd.NO_PUSH)
    assert reasons(decide(snapshot, record)) == [StopReason.NOTHING_PUSHED]


def test_long_names_of_checks_do_not_make_a_cause_that_cannot_start() -> None:
    """If the round reports nothing, the record has the cause of its AgentTask, whose name is taken."""
    names = [f"{number:02} {'é' * 290}" for number in range(IDS_LIMIT)]
    red = change(checks=tuple(check(name, run=str(number)) for number, name in enumerate(names)))
    [cause] = decide(red).due
    assert cause.ids == tuple(names[: len(cause.ids)])
    assert 1 <= len(cause.ids) < IDS_LIMIT
    word, trigger = trigger_of(cause, LATER)
    assert (word, cause_of(trigger).ids) == (Cause.CHECKS, cause.ids)
    assert len(trigger.cause) <= ROUND_CAUSE_LIMIT
    failed = recorded(RoundRecord(), trigger, None, RoundEnd.FAILED)
    assert (decide(red, failed).due, reasons(decide(red, failed))) == ((), [StopReason.NOTHING_PUSHED])
    superseded = recorded(RoundRecord(), trigger, None, RoundEnd.SUPERSEDED)
    [again] = decide(red, superseded).due
    assert (again.ids, again.name_part != trigger.name_part) == (cause.ids, True)


def test_a_check_that_passes_later_makes_no_new_cause_of_the_others() -> None:
    record = ended(RoundRecord(), decide(change(checks=(check("a"), check("b")))).due[0], RoundEnd.NO_PUSH)
    work = decide(change(checks=(check("a"), check("b", GREEN))), record)
    assert (work.due, reasons(work)) == ((), [StopReason.NOTHING_PUSHED])


def test_no_character_in_a_name_or_an_error_breaks_the_decision() -> None:
    snapshot = change(checks=(check("\ud800 --> \x00", errors="\udfff"),))
    assert ended(RoundRecord(), decide(snapshot).due[0]).rounds


def test_names_of_checks_cannot_imitate_another_cause() -> None:
    one = decide(change(checks=(check('a","b'),))).due[0]
    two = decide(change(checks=(check("a"), check("b")))).due[0]
    assert one.identity != two.identity


def test_the_rounds_for_checks_are_counted_and_limited() -> None:
    snapshot, record = rounds(change(checks=(check(),)), 3)
    assert [entry.kind for entry in record.rounds] == [RoundKind.CHECKS] * 3
    work = decide(snapshot, record)
    assert (work.due, reasons(work)) == ((), [StopReason.BOUND])
    assert work.stops[0].sentence.startswith("There were 3 rounds for the failed checks, which is the limit.")
