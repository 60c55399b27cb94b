"""What is recorded and said after the forge was asked to run checks again."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    NotYetError,
    RequestKind,
)
from coding_agent_core.rounds.reruns import run_again
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import Rerun
from coding_agent_forges.rest.forge import Forge

from tests.unit.core_rounds.making import HEAD, LATER, change


class AnsweringForge:
    def __init__(self, answer: ForgeError | None) -> None:
        self.answer = answer

    async def rerun_check(self, change: Item, run: str) -> None:
        if self.answer is not None:
            raise self.answer


def limited() -> ForgeUnavailableError:
    """A rate limit: the forge certainly did nothing."""
    error = ForgeUnavailableError("limited", status=429)
    error.repeatable = True
    return error


@pytest.mark.parametrize(
    ("answer", "recorded", "refused", "said"),
    [
        pytest.param(None, True, False, "was asked to run", id="done"),
        pytest.param(ForgeRefusedError("no", status=403), True, True, "refused to run", id="refused"),
        pytest.param(ForgeNotFoundError("no", status=404), True, True, "refused to run", id="not found"),
        pytest.param(ForgeUnavailableError("500", status=500), True, False, "its answer was lost", id="5xx"),
        pytest.param(ForgeUnavailableError("timeout"), True, False, "its answer was lost", id="no answer"),
        pytest.param(limited(), False, False, "", id="rate limit"),
        pytest.param(NotYetError("not yet", RequestKind.WRITE, 5), False, False, "", id="not sent"),
    ],
)
def test_what_may_have_happened_is_recorded(
    answer: ForgeError | None, recorded: bool, refused: bool, said: str
) -> None:
    forge = cast(Forge, AnsweringForge(answer))
    rerun = Rerun("900", "0" * 12, "CI / test", HEAD, "it is flaky")
    asked = asyncio.run(run_again(forge, change().item, [rerun], LATER))
    assert [(one.run, one.refused) for one in asked.entries] == ([("900", refused)] if recorded else [])
    assert all(one.unanswered is ("lost" in said) for one in asked.entries)
    assert said in asked.sentence
    assert bool(asked.sentence) is recorded
