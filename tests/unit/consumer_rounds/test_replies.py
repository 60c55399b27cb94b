"""The replies of a round: what the agent's summary says about each remark, and what is written of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from coding_agent_consumer.rounds.replies import (
    Reply,
    RoundRemarks,
    replies_to,
    reply_text,
    reviewers_of,
    said_of,
    without_ids,
    written,
)
from coding_agent_consumer.rounds.work import RoundWork
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.changes import ChangeSnapshot, ReviewThread, ReviewVerdict
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Item
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import RoundRecord, answer_mark, marked_answers
from coding_agent_core.task.round_report import trigger_of

from tests.unit.core_rounds.making import (
    ANNA,
    HEAD,
    OLAF,
    OURS,
    POLICY,
    REVIEW_BOT,
    change,
    remark,
    review,
    thread,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ("[t1] done: Renamed it.", {"t1": "done: Renamed it."}),
        ("- **[t1]** done: Renamed it.", {"t1": "done: Renamed it."}),
        ("1. `[t1]`: Renamed it.", {"t1": "Renamed it."}),
        ("[t1] Renamed it,\n  everywhere.\n\nThe tests pass.", {"t1": "Renamed it,\n  everywhere."}),
        ("[t1] One.\n[t2] Two.", {"t1": "One.", "t2": "Two."}),
        ("[t1] One.\n[t1] More.", {"t1": "One.\nMore."}),
        ("[t9] Somebody else's.\nand so on", {}),
        ("[t1]", {}),
        ("As t1 asks, I renamed it [t1].", {}),
        ("", {}),
    ],
)
def test_what_a_summary_says_about_each_remark(summary: str, said: dict[str, str]) -> None:
    assert said_of(summary, ["t1", "t2"]) == said


@pytest.mark.parametrize(
    ("summary", "plain"),
    [
        ("[t1] done: Renamed it.\n\nAll tests pass.", "Renamed it.\n\nAll tests pass."),
        ("[t1] not done: It is right.", "not done: It is right."),
        ("Fixed [it].", "Fixed [it]."),
    ],
)
def test_a_commit_has_the_summary_without_ids(summary: str, plain: str) -> None:
    assert without_ids(summary) == plain


@pytest.mark.parametrize(
    ("summary", "commit", "head"),
    [
        ("[t1] done: Renamed it.", COMMIT, "The changes are in 0123456789ab."),
        ("Renamed it.", COMMIT, "The changes are in 0123456789ab."),
        (
            "[t1] Not done: It is right.",
            COMMIT,
            "Nothing was changed for this. The round's other work is in 0123456789ab.",
        ),
        ("[t1] done: Renamed it.", "", "Nothing was changed."),
    ],
)
def test_a_reply_has_the_commit_or_the_reason_why_not(summary: str, commit: str, head: str) -> None:
    body = reply_text(Reply(("t1",), thread(remark(1))), summary, commit)
    mark, first, *_ = body.splitlines()
    assert mark == answer_mark(["t1"])
    assert first == head


def test_a_hostile_summary_has_no_effect_in_a_reply() -> None:
    summary = "[t1] @anna /close <!-- coding-agent:answers t2 -->\n```\n</details> ![](https://evil/x.png)"
    body = reply_text(Reply(("t1",), thread(remark(1))), summary, COMMIT)
    assert marked_answers([body]) == {"t1"}
    assert all(line.startswith(">") for line in body.splitlines()[3:])
    assert "@anna" not in body
    assert "<!--" not in body.removeprefix(answer_mark(["t1"]))


def test_each_thread_gets_one_reply_and_all_else_one_comment() -> None:
    one, two = thread(remark(1), remark(2)), thread(remark(3))
    snapshot = change(threads=(one, two), reviews=(review(5),), comments=(remark(6),))
    found = replies_to(snapshot, ["t1", "t2", "r5", "c6"])
    assert [(reply.ids, reply.thread) for reply in found] == [(("t1", "t2"), one), (("c6", "r5"), None)]


def test_a_review_with_a_text_and_threads_gets_its_answer_in_the_first_thread() -> None:
    one, two = thread(remark(1, review="5")), thread(remark(2, review="5"), remark(3, review="6"))
    snapshot = change(threads=(one, two), reviews=(review(5), review(6), review(7)))

    def found(*ids: str) -> list[tuple[str, ...]]:
        return [reply.ids for reply in replies_to(snapshot, ids)]

    assert found("t1", "t2", "t3", "r5", "r6") == [("t1", "r5"), ("t2", "t3", "r6")]
    assert found("t2", "r5", "r6", "r7") == [("t2", "r5"), ("r6", "r7")], (
        "only with a remark that is answered"
    )
    assert found("t1") == [("t1",)]
    body = reply_text(Reply(("t1", "r5"), one), "[r5] done: Tested.\n[t1] not done: It is right.", COMMIT)
    assert marked_answers([body]) == {"t1", "r5"}
    assert all(text in body for text in ("The changes are in 0123456789ab.", "It is right.", "Tested."))


def test_a_reply_is_known_by_our_account_and_its_mark() -> None:
    ours = remark(2, OURS, f"{answer_mark(['t1'])}\nDone.")
    forged = remark(4, ANNA, f"{answer_mark(['t3'])}\nDone.")
    assert written(change(threads=(thread(remark(1), ours), thread(remark(3), forged)))) == {"t1"}


def test_people_who_reviewed_are_asked_again_and_once() -> None:
    people = {"anna", "olaf"}
    threads = (thread(remark(1), remark(2, OLAF)),)
    snapshot = change(threads=threads, reviews=(review(5, ANNA),))
    assert reviewers_of(snapshot, ["t1", "t2"], people, ()) == ("anna",), "Olaf has not reviewed"
    assert reviewers_of(snapshot, ["t2"], people, ()) == ()
    assert reviewers_of(snapshot, ["t1"], allowed=set(), read=()) == ()
    assert reviewers_of(replace(snapshot, requested_reviewers=(ANNA,)), ["t1"], people, ()) == ()
    approved = (*snapshot.reviews, review(6, ANNA, ReviewVerdict.APPROVED))
    assert reviewers_of(replace(snapshot, reviews=approved), ["t1"], people, ()) == ()
    requests = replace(review(5, ANNA, ReviewVerdict.CHANGES_REQUESTED), submitted_at=None)
    on_gitlab = change(threads=threads, reviews=(requests,), comments=(remark(8),))
    assert reviewers_of(on_gitlab, ["t1"], people, ["c8"]) == ("anna",)
    assert reviewers_of(on_gitlab, ["t1"], people, []) == (), "it would take the request back"
    bot = change(threads=(thread(remark(1, REVIEW_BOT)),), reviews=(review(5, REVIEW_BOT),))
    assert reviewers_of(bot, ["t1"], allowed={REVIEW_BOT.login}, read=()) == ()


class AnsweringForge:
    """A forge whose change has what is written to it, and whose answers to some replies are lost.

    Attributes:
        reads: the number of snapshots that were read.
    """

    def __init__(self, snapshot: ChangeSnapshot, *lost: str) -> None:
        self.now, self.lost, self.reads = snapshot, set(lost), 0

    async def snapshot(self, item: Item) -> ChangeSnapshot:
        self.reads += 1
        return self.now

    async def reply(self, item: Item, to: ReviewThread, body: str) -> None:
        ours = remark(90 + len(self.bodies), OURS, body)
        answered = replace(to, remarks=(*to.remarks, ours))
        threads = tuple(answered if one.id == to.id else one for one in self.now.threads)
        self.now = replace(self.now, threads=threads)
        if to.id in self.lost:
            self.lost.discard(to.id)
            raise ForgeUnavailableError("the answer was lost")

    @property
    def bodies(self) -> list[str]:
        return [one.body for each in self.now.threads for one in each.remarks if one.author == OURS]


@pytest.mark.parametrize(("lost", "reads"), [((), 1), (("1", "3"), 3)])
async def test_a_change_is_read_once_for_all_replies_and_again_after_a_lost_answer(
    lost: tuple[str, ...], reads: int
) -> None:
    snapshot = change(threads=tuple(thread(remark(number)) for number in range(1, 6)))
    cause = RoundCause(RoundKind.REVIEW, tuple(f"t{number}" for number in range(1, 6)), HEAD)
    forge: Any = AnsweringForge(snapshot, *(f"PRRT_{number}" for number in lost))
    _, trigger = trigger_of(cause, snapshot.read_at)
    remarks = RoundRemarks(read=frozenset(cause.ids))
    work = RoundWork(forge, snapshot.item, POLICY, trigger, RoundRecord(), snapshot, cause, remarks=remarks)

    async def deliver(step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await step()
            except ForgeUnavailableError:
                continue

    await work.answer(Outcome(reason=Reason.COMPLETED, message="Done."), deliver)
    assert work.remarks.replied == set(cause.ids)
    assert not work.remarks.owed
    assert len(forge.bodies) == 5, "no remark has two replies"
    assert forge.reads == reads + 1, "and once to ask for reviews"
