"""Replies that the forge refuses: what still exists gets one, and what got none is due again."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_consumer.rounds.work import RoundWork
from coding_agent_core.task.round_cause import RoundKind

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.ours import OpenOurs, both
from tests.integration.main_job.scripts import finish


async def test_a_remark_is_answered_although_the_first_one_of_its_thread_is_deleted_meanwhile(
    open_ours: OpenOurs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub knows a thread by its first remark."""
    ours, answer = open_ours("github"), RoundWork.answer
    thread = ours.thread("Say it in German.")
    ours.forge.reply(thread, "And in lower case.", by="alice")
    ids = {f"t{one.id}" for one in thread.comments}

    async def deleted(*arguments: Any) -> None:
        del thread.comments[0]
        await answer(*arguments)

    monkeypatch.setattr(RoundWork, "answer", deleted)
    ours.plays(finish("No.", status="nothing_to_change"))
    outcome = await ours.round()
    assert [one.author.login for one in thread.comments] == ["alice", "coding-agent-bot"]
    assert outcome.round is not None
    assert (set(outcome.round.keys), outcome.round.owed) == (ids, ())
    assert (await ours.work()).due == ()


@both
async def test_a_remark_whose_reply_is_refused_is_due_once_more(open_ours: OpenOurs, flavour: str) -> None:
    ours = open_ours(flavour)
    refused, other = ours.thread("Say it in German."), ours.thread("And this one?", line=3)
    key, replied = f"t{refused.comments[0].id}", f"t{other.comments[0].id}"
    name = key[1:] if flavour == "github" else (await ours.snapshot()).threads[0].id
    ours.forge.fault(method="POST", path=f".*/{name}/(replies|notes)", status=403, times=None)
    ours.plays(finish("No.", status="nothing_to_change"))
    first = (await ours.round()).round
    assert first is not None
    assert [(due.kind, due.ids) for due in (await ours.work()).due] == [(RoundKind.REVIEW, (key,))]
    assert (first.keys, first.owed) == ((replied,), (key,))
    second = (await ours.round()).round
    assert second is not None
    assert (second.keys, second.owed) == ((), (key,))
    assert (await ours.work()).due == (), "each round costs money"
    assert len(ours.forge.item(REPOSITORY, ours.number, "change").comments) == 1, "the record"
