"""What a round records as answered, and replies to, is what its prompt showed, however much people write."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import PERMISSIONS_LIMIT, RoundCause, RoundKind
from coding_agent_core.task.round_record import RoundEnd, RoundResult, entry_of, marked_answers, with_entry
from coding_agent_testbed.forge.model import Kind, User

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.ours import FILE, US, OpenOurs, both
from tests.integration.main_job.scripts import finish, write

LONG = "x" * 3_900
EARLIER = RoundResult(
    RoundCause(RoundKind.CHECKS, ("unit",), "a" * 40), datetime.now(UTC), RoundEnd.PUSHED, "b" * 40
)


@both
async def test_a_strangers_replies_do_not_hide_a_reviewers_remark(open_ours: OpenOurs, flavour: str) -> None:
    ours = open_ours(flavour)
    thread = ours.thread("Say it in German.")
    for number in range(16):
        ours.forge.reply(thread, f"noise {number} {LONG}", by="reader")
    other = ours.thread("And three too.", line=3)
    ours.plays(finish("No.", status="nothing_to_change"))
    outcome = await ours.round()
    asked = str(ours.requests[0])
    assert "Say it in German." in asked
    assert "And three too." in asked
    assert outcome.round is not None
    assert set(outcome.round.keys) == {f"t{one.comments[0].id}" for one in (thread, other)}
    assert "noise 15" in asked, "the newest of what strangers wrote is information"
    assert "noise 0 " not in asked
    assert "(11 other remarks of this thread are left out)" in asked


@both
async def test_a_long_review_is_read_in_several_rounds(open_ours: OpenOurs, flavour: str) -> None:
    ours = open_ours(flavour)
    threads = [ours.thread(f"remark {number}: {LONG}") for number in range(20)]
    ids = {f"t{one.comments[0].id}": f"remark {at}: " for at, one in enumerate(threads)}
    answered = set[str]()
    for _ in range(2):
        assert answered != ids.keys()
        ours.plays(finish("No.", status="nothing_to_change"))
        outcome = await ours.round()
        assert outcome.reason is Reason.NOTHING_TO_CHANGE, outcome.message
        asked = str(ours.requests[-1])
        shown = {key for key, text in ids.items() if text in asked}
        assert {key for key in ids if f"[{key}]" in asked} == shown
        assert outcome.round is not None
        assert set(outcome.round.keys) == shown
        answered |= shown
        bodies = [one.body for thread in threads for one in thread.comments if one.author.login == US]
        assert marked_answers(bodies) == answered
    assert answered == ids.keys()
    assert (await ours.work()).due == ()
    assert len(ours.record.rounds) == 2, "no round is recorded that did nothing"


async def test_a_long_review_on_gitlab_is_answered_before_we_ask_for_another(open_ours: OpenOurs) -> None:
    """There, our request takes back the changes requested, and the text of a review is a plain comment."""
    ours = open_ours("gitlab")
    texts = [f"remark {number}: {LONG if number else 'short'}" for number in range(20)]
    for text in texts:
        ours.forge.comment(REPOSITORY, ours.number, text, kind=Kind.CHANGE, by="alice")
    ours.forge.review(REPOSITORY, ours.number, "CHANGES_REQUESTED", "", by="alice")
    asked = ""
    for end in (False, True):
        ours.plays(finish("No.", status="nothing_to_change"))
        await ours.round()
        asked += str(ours.requests[-1])
        requested = [one.login for one in (await ours.snapshot()).requested_reviewers]
        assert requested == (["alice"] if end else [])
    assert [text for text in texts if text[:12] not in asked] == []
    assert (await ours.work()).due == ()


@both
async def test_a_thread_with_a_remark_that_was_not_read_stays_open(open_ours: OpenOurs, flavour: str) -> None:
    ours = open_ours(flavour)
    thread = ours.thread("Say it in German.")
    for number in range(18):
        ours.forge.reply(thread, f"remark {number}: {LONG}", by="alice")
    for end in (False, True):
        number = len(ours.record.rounds)
        ours.plays(write(FILE, f"line {number}\n"), finish("Did it."))
        await ours.round(resolve_threads=True)
        assert bool(thread.resolved_by) == end


@both
@pytest.mark.parametrize("where", ["thread", "comments"])
async def test_accounts_without_rights_do_not_stop_a_round(
    open_ours: OpenOurs, flavour: str, where: str
) -> None:
    """More than the permissions that a round reads besides those of its cause, and before alice by name."""
    ours = open_ours(flavour)
    ours.record = with_entry(ours.record, entry_of(EARLIER))  # acts matter only after a first round
    thread = ours.thread("Say it in German.")
    for number in range(PERMISSIONS_LIMIT + 5):
        text, by = f"@{US} hello {number}", f"aa-{number:02}"
        ours.forge.sandbox.store.users.append(User(9_000 + number, by, by, f"token-{by}"))
        if where == "thread" and number < 40:  # a snapshot shows the newest 50 of a thread
            ours.forge.reply(thread, text, by=by)
        else:
            ours.forge.comment(REPOSITORY, ours.number, text, kind=Kind.CHANGE, by=by)
    ours.plays(finish("No.", status="nothing_to_change"))
    outcome = await ours.round()
    assert outcome.reason is Reason.NOTHING_TO_CHANGE, outcome.message
    assert outcome.round is not None
    assert outcome.round.keys == (f"t{thread.comments[0].id}",)
    assert (await ours.work()).due == ()
