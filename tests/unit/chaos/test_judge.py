"""The judge finds each planted wrong history, and nothing in a right one."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.history import CLOCK_AHEAD, read_history
from tests.chaos.promises import KINDS
from tests.chaos.readers import agent_task_runs
from tests.unit.chaos import test_round_claims
from tests.unit.chaos.tape import ADA, ASKS, BOT, DONE, PROMISES, START, WORKS, Tape, at_, right

CHAOS = Path(__file__).parents[3] / "tests" / "chaos"


def test_a_right_history_has_no_violations() -> None:
    verdict = right().verdict()
    assert not verdict.violations, verdict.text()
    assert (verdict.applications, verdict.runs) == (3, 3)
    assert not verdict.unknown


def _lost(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, 503, 9)


def _lost_after_an_end(tape: Tape) -> None:
    tape.label(120, ASKS, ADA)


def _lost_relabel_within_seconds(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.unlabel(101, ASKS, ADA, 9)
    name = tape.task(100.5, number=9)
    tape.phase(102, name, "Cancelled")
    tape.says(102, "Cancelled", number=9, comment=90)
    tape.label(103, ASKS, ADA, 9)


def _lost_while_the_run_before_is_cancelled(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.unlabel(105.1, WORKS, ADA, 9)
    tape.label(105.9, ASKS, ADA, 9)
    tape.ends(108, name, number=9, phase="Cancelled")
    tape.unlabel(109, ASKS, number=9)


def _stuck_queued(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.task(101, number=9)
    tape.phase(101, name, "Queued")
    tape.says(102, "Queued", number=9, comment=90)


def _stuck_running(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.begins(101, number=9)


def _resumed_after_its_end(tape: Tape) -> None:
    """A consumer that had lost the task reported its end, and the one that has it works on."""
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.ends(110, name, number=9)
    tape.phase(115, name, "Running")
    tape.ends(120, name, number=9)


def _doubled(tape: Tape) -> None:
    name = tape.task(200, run=3)
    tape.phase(201, name, "Running")
    tape.ends(210, name, 3)


def _doubled_by_a_redelivery(tape: Tape) -> None:
    tape.delivery(90)
    name = tape.begins(90, run=3)
    tape.pod(91, 95, name)
    tape.ends(96, name, 3)


def _same_number_twice(tape: Tape) -> None:
    tape.label(200, ASKS, ADA)
    name = tape.task(201, run=2, name="demo-issue-7-2-other")
    tape.phase(202, name, "Running")
    tape.ends(210, name, 2)


def _late(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _late_after_a_fault(tape: Tape) -> None:
    tape.fault(95, 105)
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _overlap(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    first = tape.begins(101, number=9)
    tape.pod(102, 140, first)
    tape.ends(130, first, number=9)
    tape.label(131, ASKS, ADA, 9)
    second = tape.begins(132, run=2, number=9)
    tape.pod(133, 150, second)
    tape.ends(151, second, run=2, number=9)


def _overlap_for_good(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    first = tape.begins(101, number=9)
    tape.pod(102, None, first)
    tape.ends(130, first, number=9)
    tape.label(131, ASKS, ADA, 9)
    second = tape.begins(132, run=2, number=9)
    tape.pod(133, 150, second)
    tape.ends(151, second, run=2, number=9)


def _three_at_a_limit_of_two(tape: Tape) -> None:
    for number in (21, 22, 23):
        tape.whole(200 + number / 10, number=number)


def _a_pod_of_an_ended_task_counts(tape: Tape) -> None:
    first = tape.whole(200, number=21)
    tape.pod(210, 260, first, "left-over")
    for number in (22, 23):
        tape.whole(230 + number / 10, number=number)


def _pushed_after_the_label_went(tape: Tape) -> None:
    tape.push(41, 8)


def _pushed_after_a_close(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 118, name)
    tape.forge(105, "closed", number=9)
    tape.push(116, 9)
    tape.ends(119, name, number=9, phase="Cancelled")


def _pushed_after_a_cancel(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 118, name)
    tape.forge(105, "commented", number=9, comment=1, body="/cancel")
    tape.push(116, 9)
    tape.ends(119, name, number=9, phase="Cancelled")


def _a_pod_outlives_its_label(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 140, name)
    tape.unlabel(105, WORKS, ADA, 9)
    tape.phase(141, name, "Cancelled")
    tape.says(142, "Cancelled", number=9, comment=90)


def _a_pod_starts_after_the_label_went(tape: Tape) -> None:
    name = "demo-issue-8-1"
    tape.pod(45, 50, name, f"{name}-2")


def _two_comments(tape: Tape) -> None:
    tape.says(90, "Succeeded", 2, comment=71)


def _two_changes(tape: Tape) -> None:
    for at, number in ((28, 31), (79, 32)):
        more = {"kind": "change", "branch": f"coding-agent/issue-7-r{number}"}
        tape.forge(at, "opened", BOT, number, **more)


def _the_comment_says_something_else(tape: Tape) -> None:
    tape.says(90, "Running", 2)


def _no_comment(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.task(101, number=9)
    tape.phase(102, name, "Running")
    tape.phase(110, name, "Succeeded")
    tape.label(111, DONE, number=9)


def _processing_stays(tape: Tape) -> None:
    tape.label(95, WORKS)


def _no_done_label(tape: Tape) -> None:
    tape.unlabel(95, DONE)


def _done_after_a_cancel(tape: Tape) -> None:
    tape.label(36, DONE, number=8)


def _unstored(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, number=9)
    name = tape.begins(105, number=9)
    tape.ends(110, name, number=9)


def _labeled_again(tape: Tape, asked: str) -> None:
    """The label's webhook finds the task of the first run; the reporter creates the next one later."""
    tape.label(100, ASKS, ADA, 9)
    first = tape.begins(101, number=9)
    tape.ends(108, first, number=9)
    tape.label(150, ASKS, ADA, 9)
    tape.rescan(150.5, first, asked)
    tape.delivery(151, number=9)
    name = tape.begins(155, 2, number=9)
    tape.ends(165, name, 2, number=9)


def _unstored_while_the_item_has_a_task(tape: Tape) -> None:
    _labeled_again(tape, "changes")


def _a_label_whose_item_is_to_be_read(tape: Tape) -> None:
    _labeled_again(tape, "labels")


def _written_after_a_merge(tape: Tape) -> None:
    tape.forge(300, "merged")
    tape.says(400, "Succeeded", 2)


def _written_after_a_cancel(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.forge(105, "commented", number=9, comment=1, body="/cancel\n")
    tape.ends(108, name, number=9, phase="Cancelled")
    tape.label(300, DONE, number=9)
    tape.unlabel(301, DONE, number=9)


def _the_label_stays_after_a_failure(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.ends(110, name, number=9, phase="Failed")
    tape.label(111, ASKS, number=9)


def _the_comment_is_of_an_earlier_run(tape: Tape) -> None:
    tape.says(90, "Succeeded", 1)


def _a_strangers_run(tape: Tape) -> None:
    tape.forge(199, "commented", "eve", comment=3, body="/run")
    name = tape.begins(200, run=3)
    tape.ends(210, name, 3)


def _late_among_many_short_faults(tape: Tape) -> None:
    for start in range(90, 500, 8):
        tape.fault(start, start + 4)
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(450, number=9)
    tape.ends(460, name, number=9)


def _stuck_in_a_fault_that_lasts_forever(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.begins(101, number=9)
    tape.fault(102, 598)


def _a_pod_outlives_its_label_in_a_fault_that_lasts_forever(tape: Tape) -> None:
    _a_pod_outlives_its_label(tape)
    tape.pod(103, 520, "demo-issue-9-1", "demo-issue-9-1-2")
    tape.fault(104, 598)


def _a_deleted_pod_that_works_on(tape: Tape) -> None:
    """Its deletion has a grace time, and bodies of pods are logged without their spec."""
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, None, name, "works-on")
    tape.unlabel(105, WORKS, ADA, 9)
    gone = {"kind": "Pod", "metadata": {"name": "works-on", "deletionGracePeriodSeconds": 30}}
    tape.audit(106, "pods", "delete", "works-on", gone)
    tape.ends(108, name, number=9, phase="Cancelled")


def _over_its_budget(tape: Tape) -> None:
    for run, amount in ((1, "0.60"), (2, "0.70")):
        tape.spends(45 * run, f"demo-issue-7-{run}", "0.20", amount)


def _succeeds_without_an_attempt(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.push(105, 9)
    tape.opens_change(105.5, 9)
    tape.phase(110, name, "Succeeded")


def _succeeds_without_a_push(tape: Tape) -> None:
    tape.lines = [line for line in tape.lines if line.get("event") != "pushed"]


def _succeeds_without_a_change(tape: Tape) -> None:
    tape.lines = [line for line in tape.lines if line.get("kind") != "change"]


def _fails_a_second_after_its_label(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.task(100.5, number=9)
    tape.phase(101, name, "Failed")
    tape.says(101.5, "Failed", number=9, comment=90)


def _a_second_run_for_a_label_that_was_answered(tape: Tape) -> None:
    """Somebody took the label off and on while the run worked, and the run went on."""
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.unlabel(103, WORKS, ADA, 9)
    tape.label(103.5, ASKS, ADA, 9)
    tape.ends(120, name, number=9)
    second = tape.begins(300, run=2, number=9)
    tape.ends(320, second, run=2, number=9)


def _overlap_with_the_run_before_the_one_before(tape: Tape) -> None:
    for run, at in ((1, 100), (2, 130), (3, 160)):
        tape.label(at, ASKS, ADA, 9)
        name = tape.begins(at + 1, run=run, number=9)
        tape.pod(at + 2, 180 if run == 1 else at + 19, name)
        tape.ends(at + 20, name, run=run, number=9)


def _two_attempts_at_once(tape: Tape) -> None:
    tape.pod(15, 25, "demo-issue-7-1", "demo-issue-7-1-2")


def _a_pod_after_the_end(tape: Tape) -> None:
    tape.pod(300, 310, "demo-issue-7-2", "demo-issue-7-2-2")


def _a_push_after_the_end(tape: Tape) -> None:
    tape.push(300)


def _a_push_after_the_end_while_the_operator_is_dead(tape: Tape) -> None:
    tape.fault(80, 120)
    tape.push(100)


def _a_push_to_main(tape: Tape) -> None:
    tape.forge(20, "pushed", BOT, None, branch="main")


def _a_comment_without_the_hidden_line(tape: Tape) -> None:
    tape.forge(20, "commented", BOT, comment=75, body="I am on it.")


def _a_second_change_from_another_branch(tape: Tape) -> None:
    tape.forge(28, "opened", BOT, 33, kind="change", branch="coding-agent/extra", base="main")


def _a_comment_that_names_the_change_of_another_issue(tape: Tape) -> None:
    state = json.dumps({"uuid": "u7-2", "run": 2, "phase": "Succeeded"})
    body = f"Pull request: https://github.test/octo/demo/pull/1008\n<!-- coding-agent:status {state} -->"
    tape.forge(90, "comment_edited", BOT, comment=70, body=body)


def _a_run_after_the_item_was_opened_again(tape: Tape) -> None:
    tape.forge(200, "closed")
    tape.forge(210, "reopened")
    name = tape.begins(215, run=3)
    tape.ends(230, name, run=3)


def _a_strangers_cancel_stops_a_run(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.forge(105, "commented", "eve", 9, comment=1, body="/cancel")
    tape.ends(108, name, number=9, phase="Cancelled")


def _a_persons_label_is_removed(tape: Tape) -> None:
    tape.unlabel(90, "bug")


def _a_label_is_removed_that_no_run_answers(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.unlabel(101, ASKS, number=9)


def _done_before_the_end(tape: Tape) -> None:
    tape.label(20, DONE)
    tape.unlabel(20.5, DONE)


def _the_bot_closes_the_issue(tape: Tape) -> None:
    tape.forge(90, "closed", BOT)


def _the_bot_opens_an_issue(tape: Tape) -> None:
    tape.forge(90, "opened", BOT, 99, title="More work")


def _a_change_into_another_branch(tape: Tape) -> None:
    next(line for line in tape.lines if line.get("kind") == "change")["base"] = "release"


def _a_status_of_a_commit_that_nobody_pushed(tape: Tape) -> None:
    tape.forge(90, "check", BOT, None, check="coding-agent", commit="c99", state="success")


def _the_numbers_of_runs_have_a_gap(tape: Tape) -> None:
    tape.whole(200, run=4)


def _the_task_is_deleted(tape: Tape) -> None:
    tape.audit(400, "agenttasks", "delete", "demo-issue-7-1", {})


def _a_stranger_gets_work(tape: Tape) -> None:
    tape.label(100, ASKS, "eve", 9)
    name = tape.begins(101, number=9)
    tape.ends(120, name, number=9)


def _a_task_of_another_repository(tape: Tape) -> None:
    created = next(line for line in tape.lines if line.get("objectRef", {}).get("name") == "demo-issue-7-1")
    created["responseObject"]["spec"]["source"]["repository"] = "octo/other"


def _a_pod_of_no_task(tape: Tape) -> None:
    tape.pod(100, 110, "demo-issue-77-1")


def _a_label_that_waits_until_somebody_takes_it_off(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.unlabel(200, ASKS, ADA, 9)


def _a_command_without_a_run(tape: Tape) -> None:
    tape.forge(200, "commented", comment=2, body="/run")


def _the_model_is_asked_after_the_end(tape: Tape) -> None:
    tape.forge(5, "opened", ADA, title="item-1 works for 3 s")
    for at in (15, 65, 300):
        tape.add("model", at=at_(at), title="item-1 works for 3 s", status=200)


def _a_run_that_never_asked_the_model(tape: Tape) -> None:
    tape.forge(5, "opened", ADA, title="item-1 works for 3 s")
    tape.add("model", at=at_(15), title="item-1 works for 3 s", status=200)


def _a_label_is_added_twice(tape: Tape) -> None:
    tape.forge(34, "labeled", BOT, label=DONE)


def _a_run_goes_on_after_a_cancel(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.forge(105, "commented", number=9, comment=1, body="/cancel")
    tape.ends(300, name, number=9)


def _a_commit_is_pushed_twice(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.ends(120, tape.begins(101, number=9), number=9)
    for at in (110, 112):
        tape.forge(at, "pushed", BOT, None, branch="coding-agent/issue-9", after="c9")


def _a_status_that_no_run_has_earned(tape: Tape) -> None:
    tape.forge(15, "pushed", BOT, None, branch="coding-agent/issue-7", after="c7")
    tape.forge(16, "check", BOT, None, check="coding-agent", commit="c7", state="success")


def _a_comment_that_names_a_status_that_is_not_there(tape: Tape) -> None:
    state = {"uuid": "u7-2", "run": 2, "phase": "Succeeded", "statuses": ["coding-agent c7 success"]}
    body = f"<!-- coding-agent:status {json.dumps(state)} -->"
    tape.forge(90, "comment_edited", BOT, comment=70, body=body)


def _more_attempts_than_allowed(tape: Tape) -> None:
    body = "attempt 4 of 3\n<!-- coding-agent:status " + json.dumps(
        {"uuid": "u7-2", "run": 2, "phase": "Succeeded"}
    )
    tape.forge(90, "comment_edited", BOT, comment=70, body=f"{body} -->")


def _a_suspended_run_works(tape: Tape) -> None:
    for line in tape.lines:
        if line.get("objectRef", {}).get("name") == "demo-issue-7-1" and line["verb"] == "create":
            line["responseObject"]["spec"]["suspend"] = True


def _a_push_by_force(tape: Tape) -> None:
    tape.forge(15, "pushed", BOT, None, branch="coding-agent/issue-7", before="c6", after="c7", forced=True)


def _a_pod_that_goes_although_nobody_deletes_it(tape: Tape) -> None:
    metadata = {"deletionTimestamp": at_(15), "labels": {"coding-agent.dev/task": "demo-issue-7-1"}}
    tape.audit(15, "pods", "patch", "demo-issue-7-1-1", {"metadata": metadata}, "status")


def test_a_patch_from_before_a_deletion_may_be_stored_after_it() -> None:
    tape = right()
    metadata = {"deletionTimestamp": at_(15), "labels": {"coding-agent.dev/task": "demo-issue-7-1"}}
    body, began = {"metadata": metadata}, "requestReceivedTimestamp"
    tape.audit(15.1, "pods", "patch", "demo-issue-7-1-1", body, **{began: at_(14.9)})
    tape.audit(15.05, "pods", "delete", "demo-issue-7-1-1", body, **{began: at_(15)})
    assert not tape.history().undeleted


PLANTED: list[tuple[Callable[[Tape], None], str]] = [
    (_lost, "lost"),
    (_lost_after_an_end, "lost"),
    (_lost_relabel_within_seconds, "lost"),
    (_lost_while_the_run_before_is_cancelled, "lost"),
    (_stuck_queued, "stuck"),
    (_stuck_running, "stuck"),
    (_resumed_after_its_end, "resumed"),
    (_doubled, "doubled"),
    (_doubled_by_a_redelivery, "doubled"),
    (_same_number_twice, "doubled"),
    (_late, "late"),
    (_late_after_a_fault, "late"),
    (_overlap, "overlap"),
    (_overlap_for_good, "overlap"),
    (_three_at_a_limit_of_two, "limit"),
    (_a_pod_of_an_ended_task_counts, "limit"),
    (_pushed_after_the_label_went, "pushed late"),
    (_pushed_after_a_close, "pushed late"),
    (_pushed_after_a_cancel, "pushed late"),
    (_a_pod_outlives_its_label, "stopped late"),
    (_a_pod_starts_after_the_label_went, "stopped late"),
    (_two_comments, "comments"),
    (_two_changes, "changes"),
    (_the_comment_says_something_else, "disagreement"),
    (_no_comment, "disagreement"),
    (_processing_stays, "disagreement"),
    (_no_done_label, "disagreement"),
    (_done_after_a_cancel, "disagreement"),
    (_unstored, "unstored"),
    (_unstored_while_the_item_has_a_task, "unstored"),
    (_written_after_a_merge, "written after the end"),
    (_written_after_a_cancel, "written after the end"),
    (_the_label_stays_after_a_failure, "disagreement"),
    (_the_comment_is_of_an_earlier_run, "disagreement"),
    (_a_strangers_run, "doubled"),
    (_late_among_many_short_faults, "late"),
    (_stuck_in_a_fault_that_lasts_forever, "stuck"),
    (_a_pod_outlives_its_label_in_a_fault_that_lasts_forever, "stopped late"),
    (_over_its_budget, "budget"),
    (_a_deleted_pod_that_works_on, "stopped late"),
    (_succeeds_without_an_attempt, "work"),
    (_succeeds_without_a_push, "work"),
    (_succeeds_without_a_change, "work"),
    (_fails_a_second_after_its_label, "work"),
    (_a_second_run_for_a_label_that_was_answered, "doubled"),
    (_overlap_with_the_run_before_the_one_before, "overlap"),
    (_two_attempts_at_once, "overlap"),
    (_a_pod_after_the_end, "cause"),
    (_a_push_after_the_end, "cause"),
    (_a_push_after_the_end_while_the_operator_is_dead, "cause"),
    (_a_push_to_main, "cause"),
    (_a_comment_without_the_hidden_line, "cause"),
    (_a_second_change_from_another_branch, "cause"),
    (_a_comment_that_names_the_change_of_another_issue, "cause"),
    (_a_run_after_the_item_was_opened_again, "doubled"),
    (_a_strangers_cancel_stops_a_run, "work"),
    (_a_persons_label_is_removed, "cause"),
    (_a_label_is_removed_that_no_run_answers, "cause"),
    (_done_before_the_end, "cause"),
    (_the_bot_closes_the_issue, "cause"),
    (_the_bot_opens_an_issue, "cause"),
    (_a_change_into_another_branch, "cause"),
    (_a_status_of_a_commit_that_nobody_pushed, "cause"),
    (_the_numbers_of_runs_have_a_gap, "life cycle"),
    (_the_task_is_deleted, "life cycle"),
    (_a_stranger_gets_work, "rights"),
    (_a_task_of_another_repository, "cause"),
    (_a_pod_of_no_task, "cause"),
    (_a_label_that_waits_until_somebody_takes_it_off, "lost"),
    (_a_command_without_a_run, "lost"),
    (_the_model_is_asked_after_the_end, "cause"),
    (_a_run_that_never_asked_the_model, "work"),
    (_a_label_is_added_twice, "cause"),
    (_a_run_goes_on_after_a_cancel, "stopped late"),
    (_a_suspended_run_works, "cause"),
    (_a_commit_is_pushed_twice, "cause"),
    (_a_status_that_no_run_has_earned, "cause"),
    (_a_comment_that_names_a_status_that_is_not_there, "cause"),
    (_more_attempts_than_allowed, "cause"),
    (_a_push_by_force, "cause"),
    (_a_pod_that_goes_although_nobody_deletes_it, "cause"),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_history_is_found(plant: Callable[[Tape], None], kind: str) -> None:
    tape = right()
    plant(tape)
    verdict = tape.verdict()
    assert verdict.kinds[kind], verdict.text()
    assert not tape.verdict(replace(PROMISES, not_promised=frozenset({kind}))).kinds[kind]


def test_every_kind_of_violation_is_planted() -> None:
    assert {kind for _, kind in PLANTED} | set(test_round_claims.PLANTED_KINDS) == set(KINDS)


def test_a_label_that_no_webhook_brought_has_its_run_with_the_next_poll() -> None:
    tape = right()
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, 503, 9)
    tape.ends(160, tape.begins(150, number=9), number=9)
    assert tape.verdict(PROMISES).kinds["late"]
    assert not tape.verdict(replace(PROMISES, poll=60)).violations
    tape.delivery(102, 200, 9)
    assert tape.verdict(replace(PROMISES, poll=60)).kinds["late"]


def _a_push_that_the_way_to_the_forge_held_up(tape: Tape) -> None:
    tape.fault(80, 120, kind="cut programs from forge")
    tape.push(121)


def _labels_in_the_last_seconds(tape: Tape) -> None:
    tape.label(590, ASKS, ADA, 9)


def _late_because_of_a_fault(tape: Tape) -> None:
    tape.fault(95, 145)
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _rounds_shown_after_a_cancel_of_nothing(tape: Tape) -> None:
    """The run had ended, and its change goes on."""
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.ends(108, name, number=9)
    tape.forge(120, "commented", number=9, comment=1, body="/cancel")
    tape.says(300, "Succeeded", number=9, comment=90)


def _rounds_shown_after_a_cancel_that_came_too_late(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.forge(107, "commented", number=9, comment=1, body="/cancel")
    tape.ends(108, name, number=9)
    tape.says(300, "Succeeded", number=9, comment=90)


def _rounds_shown_after_the_label_of_a_run_that_had_ended_went(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.phase(107, name, "Succeeded")
    tape.unlabel(107.5, WORKS, ADA, 9)
    tape.ends(108, name, number=9)
    tape.says(300, "Succeeded", number=9, comment=90)


def _a_label_after_the_forges_clock_was_set_back(tape: Tape) -> None:
    """It looks like an old one, so its task is not there when the delivery is answered."""
    tape.fault(60, 70, kind=CLOCK_AHEAD)
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, number=9)
    name = tape.begins(170, number=9)
    tape.ends(180, name, number=9)


def _a_label_in_the_second_of_the_end(tape: Tape) -> None:
    tape.unlabel(81.9, DONE, ADA)
    tape.label(81.95, ASKS, ADA)


def _a_strangers_cancel(tape: Tape) -> None:
    tape.forge(25, "commented", "eve", comment=1, body="/cancel")


def _a_command_that_counts(tape: Tape) -> None:
    tape.forge(100, "commented", comment=2, body="/retry")
    name = tape.begins(101, run=3)
    tape.ends(110, name, 3)


def _a_label_that_stays_while_the_item_is_closed(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.label(102.7, ASKS, ADA, 9)
    tape.forge(105, "closed", number=9)
    tape.ends(108, name, number=9, phase="Cancelled")
    tape.forge(120, "reopened", number=9)
    second = tape.begins(121, run=2, number=9)
    tape.ends(140, second, run=2, number=9)
    tape.unlabel(141, ASKS, number=9)


def _an_api_server_that_dies_before_it_logs(tape: Tape) -> None:
    """Run 1 of item 9 and its pod are stored, and only what changes them later is logged."""
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 110, name)
    tape.delivery(105, number=9)
    tape.ends(111, name, number=9)
    for line in tape.lines:
        if line["record"] != "audit" or line["objectRef"]["name"] not in (name, f"{name}-1"):
            continue
        if line["verb"] == "create":
            made = {**line["responseObject"], "metadata": dict(line["responseObject"]["metadata"])}
            made["metadata"]["creationTimestamp"] = line["stageTimestamp"]
            line["responseStatus"] = {"code": 504}
        else:
            line["responseObject"] = {**made, **line["responseObject"]}


def _answers_that_are_logged_in_another_order(tape: Tape) -> None:
    tape.phase(82.5, "demo-issue-7-2", "Running")
    for version, line in enumerate(tape.lines, start=100):
        if line["record"] == "audit" and line["objectRef"]["resource"] == "agenttasks":
            metadata = line["responseObject"].get("metadata", {})
            line["responseObject"]["metadata"] = {**metadata, "resourceVersion": str(version)}
    tape.lines[-1]["responseObject"]["metadata"]["resourceVersion"] = "1"
    tape.lines[-1]["requestReceivedTimestamp"] = at_(62)


def _a_task_that_is_added_at_the_end_because_nothing_logged_its_creation(tape: Tape) -> None:
    """Its body is of the end: a later version, and with a status that it did not have when it was created."""
    created = next(line for line in tape.lines if line.get("objectRef", {}).get("name") == "demo-issue-7-1")
    body = {**created["responseObject"], "status": {"phase": "Succeeded"}}
    body["metadata"] = {**body["metadata"], "resourceVersion": "999"}
    created["responseObject"] = body
    for line in tape.lines:
        if line.get("objectRef", {}).get("name") == "demo-issue-7-1" and line is not created:
            line["responseObject"]["metadata"] = {"resourceVersion": "900"}
    tape.lines.remove(created)
    tape.lines.append(created)


def _a_pod_that_never_got_to_a_node(tape: Tape) -> None:
    """It counts no more from its deletion on, which has no grace time."""
    tape.label(199, ASKS, ADA, 9)
    name = tape.begins(199.5, number=9)
    tape.pod(200, None, name, "pending")
    gone = {"kind": "Pod", "metadata": {"name": "pending"}, "spec": {}}
    tape.audit(201, "pods", "delete", "pending", gone)
    tape.began[name] = 205
    tape.ends(215, name, number=9)
    for number in (21, 22):
        tape.whole(230 + number / 10, number=number)


def _within_its_budget(tape: Tape) -> None:
    tape.spends(30, "demo-issue-7-1", "0.60")
    tape.spends(81, "demo-issue-7-2", "0.45")


@pytest.mark.parametrize(
    "add",
    [
        _a_label_that_stays_while_the_item_is_closed,
        _a_label_whose_item_is_to_be_read,
        _an_api_server_that_dies_before_it_logs,
        _answers_that_are_logged_in_another_order,
        _a_task_that_is_added_at_the_end_because_nothing_logged_its_creation,
        _a_pod_that_never_got_to_a_node,
        _within_its_budget,
        _labels_in_the_last_seconds,
        _a_push_that_the_way_to_the_forge_held_up,
        _late_because_of_a_fault,
        _a_label_after_the_forges_clock_was_set_back,
        _rounds_shown_after_a_cancel_of_nothing,
        _rounds_shown_after_a_cancel_that_came_too_late,
        _rounds_shown_after_the_label_of_a_run_that_had_ended_went,
        _a_label_in_the_second_of_the_end,
        _a_strangers_cancel,
        _a_command_that_counts,
    ],
)
def test_what_is_allowed_is_no_violation(add: Callable[[Tape], None]) -> None:
    tape = right()
    add(tape)
    verdict = tape.verdict()
    assert not verdict.violations, verdict.text()


def test_without_kubernetes_the_comments_show_the_runs() -> None:
    tape = right()
    tape.lines = [line for line in tape.lines if line["record"] != "audit"]
    verdict = tape.verdict()
    assert not verdict.violations, verdict.text()
    assert verdict.runs == 3
    tape.says(300, "Running", 3)
    tape.says(320, "Succeeded", 3)
    assert tape.verdict().kinds["doubled"] == 1


def test_without_kubernetes_a_task_whose_place_another_took_while_it_waited_was_no_run() -> None:
    tape = right()
    tape.lines = [line for line in tape.lines if line["record"] != "audit"]
    tape.label(100, ASKS, ADA, 9)
    for at, task in ((101, "u9-a"), (102, "u9-b")):
        tape.says(at, "Queued", number=9, comment=90, uuid=task)
    tape.says(103, "Running", number=9, comment=90, uuid="u9-b")
    tape.push(109, 9)
    tape.opens_change(109.5, 9)
    tape.says(110, "Succeeded", number=9, comment=90, uuid="u9-b")
    tape.label(111, DONE, number=9)
    tape.unlabel(111, ASKS, number=9)
    verdict = tape.verdict()
    assert not verdict.violations, verdict.text()
    assert verdict.runs == 4


def test_a_run_that_waits_takes_off_the_label_of_the_end_of_the_one_before() -> None:
    tape = right()
    tape.label(100, ASKS, ADA)
    tape.task(101, run=3)
    tape.says(103, "Queued", 3)
    tape.unlabel(104, DONE)
    assert not tape.verdict().kinds["cause"], tape.verdict().text()
    tape.label(104.5, WORKS)
    assert tape.verdict().kinds["cause"]


def test_what_is_not_known_is_listed_apart() -> None:
    tape = right()
    tape.label(590, ASKS, ADA, 9)
    tape.delivery(595, 0, 9)
    assert len(tape.verdict().unknown) == 2


def test_an_answer_without_an_object_says_nothing_of_it() -> None:
    tape = right()
    pod = next(
        line["objectRef"]["name"]
        for line in tape.lines
        if line.get("objectRef", {}).get("resource") == "pods"
    )
    tape.audit(20, "pods", "create", pod, {"kind": "Status", "status": "Success"}, subresource="eviction")
    assert not tape.verdict().violations


def test_a_line_that_is_not_a_record_is_named() -> None:
    with pytest.raises(ValueError, match=r"line 2 is not a record: .*surprise"):
        read_history(
            [
                '{"record": "fault", "id": 1, "kind": "k", "start": "2026-01-02T12:00:00Z", '
                '"end": "2026-01-02T12:00:00Z"}',
                '{"record": "surprise"}',
            ],
            agent_task_runs,
            end=START,
        )


MODULES = (
    "history",
    "promises",
    "readers",
    "items",
    "run_claims",
    "causes",
    "round_claims",
    "judge",
    "timeline",
    "report",
)


@pytest.mark.parametrize("module", [*MODULES, "judging"])
def test_the_judge_imports_nothing_of_the_product(module: str) -> None:
    tree = ast.parse((CHAOS / f"{module}.py").read_text())
    own = {f"tests.chaos.{name}" for name in MODULES}
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names or name in own, name
