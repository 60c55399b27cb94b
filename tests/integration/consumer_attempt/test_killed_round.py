"""A round whose attempt is killed or cut off after its push: what is known of it, and what is left to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from coding_agent_consumer.rounds.work import RoundWork
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import RoundEnd, marked_answers
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.model.script import Script

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.ours import BRANCH, FILE, ROUNDS, US, OpenOurs, Ours, both
from tests.integration.main_job.scripts import finish, write

PUSHED, REPLIED = "pushed_by", "_request_review"
"""What the attempt does next after its push, and after its replies."""


async def killed(ours: Ours, cause: RoundCause, after: str, **sections: Any) -> None:
    async def kill(*_: object) -> None:
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoundWork, after, kill)
        await ours.place.run(ours.given(cause), rounds=ROUNDS, **sections)


def mention(ours: Ours, text: str) -> str:
    comment = ours.forge.comment(REPOSITORY, ours.number, f"@{US} {text}", kind=Kind.CHANGE, by="alice")
    return f"c{comment}"


def answers(ours: Ours) -> list[str]:
    """The remarks that our plain comments answer, once for each comment that does."""
    ours_alone = [one.body for one in ours.comments() if one.author.login == US]
    return sorted(key for body in ours_alone for key in marked_answers([body]))


def reported(outcome: Outcome) -> tuple[RoundKind, RoundEnd, set[str]]:
    assert outcome.round is not None
    return outcome.round.kind, outcome.round.end, set(outcome.round.keys)


@both
@pytest.mark.parametrize("after", [PUSHED, REPLIED])
async def test_each_remark_gets_one_reply(open_ours: OpenOurs, flavour: str, after: str) -> None:
    ours = open_ours(flavour)
    first = mention(ours, "why 2?")
    cause = await ours.look()
    second = mention(ours, "and why not 3?")  # while the round waits for a place
    ours.plays(write(FILE, "one\nZwei\nthree\n"), finish("It is `Zwei` now."))
    await killed(ours, cause, after)
    pushed, asked = ours.head, len(ours.requests)
    outcome = await ours.round(cause)
    assert (ours.head, len(ours.requests)) == (pushed, asked)
    assert answers(ours) == sorted([first, second])
    assert reported(outcome) == (RoundKind.REVIEW, RoundEnd.PUSHED, {first, second})
    assert outcome.round is not None
    assert {first, second} <= set(outcome.round.acts), "the round was the first to read them"
    assert (await ours.work()).due == ()


@both
async def test_what_was_answered_without_a_push_is_known_after_a_kill(
    open_ours: OpenOurs, flavour: str
) -> None:
    ours = open_ours(flavour)
    first = mention(ours, "why 2?")
    cause = await ours.look()
    second = mention(ours, "and why not 3?")  # while the round waits for a place
    ours.plays(finish("Because of the specification.", status="nothing_to_change"))
    await killed(ours, cause, REPLIED)
    outcome = await ours.round(cause)
    assert len(ours.requests) == 1
    assert answers(ours) == sorted([first, second])
    assert outcome.reason is Reason.NOTHING_TO_CHANGE
    assert reported(outcome) == (RoundKind.REVIEW, RoundEnd.NO_PUSH, {first, second})
    assert (await ours.work()).due == ()


async def test_a_reply_is_left_as_the_killed_attempt_wrote_it(open_ours: OpenOurs) -> None:
    ours = open_ours("github")
    remark = mention(ours, "why 2?")
    ours.plays(write(FILE, "one\nZwei\nthree\n"), finish(f"[{remark}] done: It is `Zwei`.\n\nI tried it."))
    cause = await ours.look()
    await killed(ours, cause, REPLIED)
    before = [one.body for one in ours.comments()]
    await ours.round(cause)
    assert [one.body for one in ours.comments()][: len(before)] == before


async def test_a_remark_is_not_answered_with_the_merge_of_a_conflict(open_ours: OpenOurs) -> None:
    ours = open_ours("github")
    remark = mention(ours, "say it in German")
    cause = await ours.look()
    assert cause.kind is RoundKind.REVIEW
    base = ours.push("main", {FILE: "one\ndeux\nthree\n"})  # while the round waits for a place
    ours.plays(write(FILE, "one\n2 deux\nthree\n"), finish("Kept both words."))
    await killed(ours, cause, PUSHED)
    outcome = await ours.round(cause)
    assert reported(outcome) == (RoundKind.CONFLICT, RoundEnd.PUSHED, {base})
    assert answers(ours) == []
    [due] = (await ours.work()).due
    assert (due.kind, due.ids) == (RoundKind.REVIEW, (remark,))


@both
@pytest.mark.parametrize("who", [US, "alice"])
async def test_a_push_on_top_does_not_hide_the_rounds_own(
    open_ours: OpenOurs, flavour: str, who: str
) -> None:
    """A run of the issue, or a person, pushes before the next attempt."""
    ours = open_ours(flavour)
    remark, before = mention(ours, "why 2?"), ours.head
    cause = await ours.look()
    ours.plays(write(FILE, "one\nZwei\nthree\n"), finish("It is `Zwei` now."))
    await killed(ours, cause, REPLIED)
    pushed = ours.head
    ours.push(BRANCH, {"other.md": "x\n"}, by=who)
    outcome = await ours.round(cause)
    assert reported(outcome) == (RoundKind.REVIEW, RoundEnd.PUSHED, {remark})
    assert outcome.round is not None
    assert (outcome.round.before, outcome.round.after, outcome.commit) == (before, pushed, pushed)
    assert answers(ours) == [remark]


async def test_the_errors_of_checks_are_known_after_a_kill(open_ours: OpenOurs) -> None:
    """The names of checks are foreign text, which a commit's message does not have."""
    ours = open_ours("github")
    thread = ours.thread("Say it in German.")
    cause = await ours.look()
    ours.forge.resolve(thread, by="alice")  # while the round waits for a place
    ours.check("unit [skip ci]", "failure", log=b"FAILED tests/test_notes.py::test_two - AssertionError\n")
    ours.plays(write(FILE, "one\ntwo!\nthree\n"), finish("Say two again."))
    [due] = (await ours.work()).due
    await killed(ours, cause, PUSHED)
    assert "skip ci" not in ours.place.system.git("log", "-1", "--format=%B", BRANCH)
    outcome = await ours.round(cause)
    assert reported(outcome) == (RoundKind.CHECKS, RoundEnd.PUSHED, set(due.keys))
    assert outcome.round is not None
    assert len(outcome.round.errors) == 1


async def test_several_commits_of_a_round_are_one_piece_of_work(open_ours: OpenOurs) -> None:
    """The commands of `verify` can fail after the first commit."""
    ours = open_ours("github")
    remark, before = mention(ours, "why 2?"), ours.head
    cause = await ours.look()
    verify = {"commands": [{"run": f"grep -q Zwei {FILE}"}]}
    turns = (write(FILE, "one\nZwei\nthree\n"), finish("It is `Zwei` now."))
    ours.plays(write(FILE, "one\nzwei\nthree\n"), finish("It is `zwei` now."))
    ours.place.system.model.app.state.play.scripts[:0] = [
        Script(name="repairs", match="# Verification failed", turns=turns)
    ]
    await killed(ours, cause, PUSHED, verify=verify)
    assert ours.place.system.git("rev-list", "--count", f"{before}..{BRANCH}").strip() == "2"
    outcome = await ours.round(cause)
    assert reported(outcome) == (RoundKind.REVIEW, RoundEnd.PUSHED, {remark})
    assert outcome.round is not None
    assert (outcome.round.before, outcome.round.after) == (before, ours.head)


async def test_who_has_requested_changes_again_is_not_asked_for_a_review(open_ours: OpenOurs) -> None:
    """On GitLab, asking takes the newer request back, and without it the text is a plain comment."""
    ours = open_ours("gitlab")
    ours.forge.review(REPOSITORY, ours.number, "CHANGES_REQUESTED", "Say it in German.", by="alice")
    cause = await ours.look()
    ours.plays(write(FILE, "one\nZwei\nthree\n"), finish("It is `Zwei` now."))
    await killed(ours, cause, PUSHED)
    ours.forge.review(REPOSITORY, ours.number, "CHANGES_REQUESTED", "And three too.", by="alice")
    outcome = await ours.round(cause)
    assert outcome.reason is Reason.COMPLETED
    [due] = (await ours.work()).due
    assert due.kind is RoundKind.REVIEW
    assert not set(due.ids) & set(cause.ids)


@both
async def test_remarks_without_a_reply_are_left_for_the_next_round(open_ours: OpenOurs, flavour: str) -> None:
    """The change is closed while the round replies, and its time is over before the second reply."""
    ours, stop = open_ours(flavour), asyncio.Event()
    first, second = ours.thread("Say it in German."), ours.thread("And this one?", line=3)
    ids = [f"t{one.comments[0].id}" for one in (first, second)]
    ours.plays(write(FILE, "one\nZwei\nthree\n"), finish("It is `Zwei` now."))
    cause, reply, replied = await ours.look(), RoundWork._reply, list[Any]()

    async def once(*arguments: Any) -> None:
        if replied:
            stop.set()
            await asyncio.Event().wait()
        replied.append(arguments)
        await reply(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoundWork, "_reply", once)
        outcome = await ours.round(cause, stop=stop, grace=3)  # meant to expire
    assert [len(one.comments) for one in (first, second)] == [2, 1]
    assert reported(outcome) == (RoundKind.REVIEW, RoundEnd.PUSHED, {ids[0]})
    [due] = (await ours.work()).due
    assert (due.kind, due.ids) == (RoundKind.REVIEW, (ids[1],))
