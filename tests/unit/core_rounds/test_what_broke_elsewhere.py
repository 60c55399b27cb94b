"""Failures of other systems that react to reviews and checks, by the name of the failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEventKind,
    ChangeState,
    CheckConclusion,
    Mergeability,
    Remark,
    ReviewVerdict,
)
from coding_agent_core.task.round_cause import RoundKind, StopReason
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, answer_mark

from tests.unit.core_rounds.making import (
    ANNA,
    LATER,
    OTHER_BOT,
    OURS,
    REVIEW_BOT,
    STRANGER,
    change,
    check,
    decide,
    ended,
    event,
    reasons,
    remark,
    review,
    rounds,
    sha,
    thread,
)


def test_an_edge_eaten_by_its_own_writer() -> None:
    """A watcher stored the new status before the decision compared the old one with it.

    Here looks store nothing, so the next look decides the same, however many there were.
    """
    snapshot = change(checks=(check(),), threads=(thread(remark(1)),))
    record = RoundRecord()
    first = decide(snapshot, record)
    assert all(decide(snapshot, record) == first for _ in range(5))
    assert [cause.kind for cause in first.due] == [RoundKind.REVIEW, RoundKind.CHECKS]


def test_one_run_for_each_failing_check() -> None:
    work = decide(change(checks=tuple(check(f"job {number}") for number in range(12))))
    assert [len(cause.ids) for cause in work.due] == [12]


def test_a_bot_answers_a_bot() -> None:
    """A bot that nobody named starts nothing; a named bot that answers each reply ends at the bound."""
    assert not decide(change(threads=(thread(remark(1, OTHER_BOT)),))).due
    talk: list[Remark] = [remark(1, REVIEW_BOT, second=1)]
    record, answered = RoundRecord(), 0
    for number in range(10):
        snapshot = change(threads=(thread(*talk),))
        due = decide(snapshot, record).due
        if not due:
            assert reasons(decide(snapshot, record)) == [StopReason.BOUND]
            break
        answered += 1
        record = ended(record, due[0], RoundEnd.NO_PUSH)
        reply = answer_mark(due[0].ids)
        talk += [remark(2 * number + 2, OURS, reply, 10 * number + 2)]
        talk += [remark(2 * number + 3, REVIEW_BOT, "No, @coding-agent!", 10 * number + 3)]
    assert answered == 5


def test_the_reply_contains_its_own_trigger() -> None:
    quoted = f"{answer_mark(['c9'])}\n> @coding-agent rename it\n\n@coding-agent has renamed it."
    asked = remark(9, body="@coding-agent rename it")
    snapshot = change(comments=(asked,))
    record = ended(RoundRecord(), decide(snapshot).due[0])
    answered = replace(snapshot, comments=(asked, remark(10, OURS, quoted)))
    assert not decide(answered, record).due
    by_mail = remark(11, ANNA, "Thanks.\n\n> @coding-agent has renamed it.\n")
    assert not decide(replace(answered, comments=(*answered.comments, by_mail)), record).due


def test_335_equal_comments() -> None:
    """The same look, 335 times, asks for one round and not for 335."""
    snapshot = change(threads=(thread(remark(1)),), checks=(check(),))
    names = {cause.name_part for _ in range(335) for cause in decide(snapshot).due}
    assert len(names) == 2
    record = ended(RoundRecord(), decide(snapshot).due[0], RoundEnd.NO_PUSH)
    assert not any(
        cause.kind is RoundKind.REVIEW for _ in range(335) for cause in decide(snapshot, record).due
    )


@pytest.mark.parametrize("state", [ChangeState.MERGED, ChangeState.CLOSED])
def test_six_rounds_after_the_merge(state: ChangeState) -> None:
    mention = remark(9, body="@coding-agent and now?", second=3000)
    broken = check("b", CheckConclusion.INFRASTRUCTURE)
    snapshot = change(
        state=state, comments=(mention,), threads=(thread(remark(1)),), checks=(check("a"), broken)
    )
    work = decide(snapshot)
    assert (work.due, work.reruns, work.waiting) == ((), (), ())


def test_a_watermark_that_moves_past_a_comment() -> None:
    """A remark counts although it is older than our answer and than all that the last round read."""
    read = remark(1, second=100)
    first = change(threads=(thread(read),), events=(event(ChangeEventKind.REOPENED, ANNA, 900),))
    record = ended(RoundRecord(), decide(first).due[0])
    reply = remark(3, OURS, answer_mark(["t1"]), second=2000)
    late_draft = remark(2, second=90)
    during_the_round = remark(4, second=1990)
    snapshot = replace(first, threads=(thread(late_draft, read, during_the_round, reply),))
    assert decide(snapshot, record).due[0].ids == ("t2", "t4")


def test_a_watermark_that_stands_still_for_one_poison_event() -> None:
    """An entry that nobody can use holds back no other entry."""
    poison = (
        remark(1, Actor("", "ghost"), "\x00<!-- \ud800 @coding-agent" * 300, second=1),
        remark(2, STRANGER, "`" * 4000, second=2),
        remark(3, ANNA, "", second=-999_999),
    )
    work = decide(change(threads=(thread(*poison),), comments=(remark(9, body="@coding-agent fix it"),)))
    assert work.due[0].ids == ("c9", "t3")


def test_exclude_authors_that_kills_every_check_event() -> None:
    """The checks of our own pushes count, because a check has no author."""
    pushed = event(ChangeEventKind.PUSHED, OURS, 5, commit=sha("head 1"))
    assert decide(change(checks=(check(),), events=(pushed,))).due
    by_bot = event(ChangeEventKind.PUSHED, OTHER_BOT, 5, commit=sha("head 1"))
    assert decide(change(checks=(check(),), events=(by_bot,))).due


def test_judging_by_resolved_and_outdated_threads() -> None:
    old = (
        thread(remark(1), resolved=True),
        thread(remark(2), outdated=True),
        thread(remark(3), resolved=True, outdated=True),
    )
    assert not decide(change(threads=old)).due
    assert decide(change(threads=(*old, thread(remark(4))))).due[0].ids == ("t4",)


def test_changes_requested_alone_is_too_narrow() -> None:
    work = decide(change(reviews=(review(author=REVIEW_BOT, verdict=ReviewVerdict.COMMENTED),)))
    assert work.due[0].ids == ("r50",)


def test_a_state_that_stays_after_the_push_causes_no_second_round() -> None:
    """A reviewer's *changes requested* stays until the reviewer comes back."""
    snapshot = change(reviews=(review(verdict=ReviewVerdict.CHANGES_REQUESTED),))
    snapshot, record = rounds(snapshot, 1)
    assert decide(snapshot, record).due == ()


def test_green_checks_of_a_head_with_a_conflict_are_old() -> None:
    """A conflicting pull request gets no new runs, and so its red is as old as its green."""
    snapshot = change(checks=(check(),), mergeability=Mergeability.CONFLICT)
    assert [cause.kind for cause in decide(snapshot).due] == [RoundKind.CONFLICT]


def test_our_own_push_that_withdraws_an_approval_is_nothing() -> None:
    """GitLab can send `unapproved` with ourselves as the user."""
    ours = review(1, OURS, ReviewVerdict.DISMISSED, "reset", None)
    assert not decide(change(reviews=(ours,))).due


def test_a_bot_that_comments_forever_starts_no_count_anew() -> None:
    snapshot, record = rounds(change(checks=(check(),)), 3)
    app = Actor("70", "coverage", ActorKind.BOT)
    comments = tuple(remark(n, app, "@coding-agent coverage is 12 %", 3000 + n) for n in range(50))
    assert reasons(decide(replace(snapshot, comments=comments), record, now=LATER)) == [StopReason.BOUND]
