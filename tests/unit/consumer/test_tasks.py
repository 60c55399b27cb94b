"""The branch that an issue's work goes to: the table of cases. What an item shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.tasks import task_for, work_branch
from coding_agent_core.attempts import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.reporting import State, read_state
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Item, Phase, answered_issue

from tests.unit.consumer.making import ITEM

OWN = "coding-agent/b"


@pytest.mark.parametrize(
    ("what", "previous", "continues", "change_open", "run", "expected"),
    [
        ("first run", None, False, False, 1, "coding-agent/issue-7"),
        ("next attempt", (OWN, None), True, False, 1, OWN),
        ("next attempt after the change was merged", (OWN, "url"), True, False, 1, OWN),
        ("next run, change open: one change per issue", (OWN, "url"), False, True, 2, OWN),
        ("the prefix was changed", ("old/issue-7", "url"), False, True, 2, "coding-agent/issue-7"),
        ("next run, change merged", (OWN, "url"), False, False, 2, "coding-agent/issue-7-r2"),
        ("third run, merged", ("coding-agent/issue-7-r2", "url"), False, False, 3, "coding-agent/issue-7-r3"),
        ("next run after a failure that pushed", (OWN, None), False, False, 2, OWN),
    ],
)
def test_work_branch(
    what: str,
    previous: tuple[str, str | None] | None,
    continues: bool,
    change_open: bool,
    run: int,
    expected: str,
) -> None:
    known = previous and State(uuid="x", phase=Phase.FAILED, branch=previous[0], change_url=previous[1])
    flags = {"continues": continues, "previous_change_open": change_open}
    branch = work_branch("coding-agent/", ITEM, run=run, previous=known or None, **flags)
    assert branch == expected, what
    assert answered_issue(branch, "coding-agent/") == (None if branch == OWN else ITEM.number)


class Shown:
    """Stands for a forge that shows one comment."""

    body = ""

    async def upsert_comment(self, item: Item, marker: str, body: str) -> None:
        self.body = body

    async def read_state(self, item: Item) -> Any:
        return SimpleNamespace(labels=frozenset())

    async def add_label(self, item: Item, label: str) -> None: ...


async def test_the_comment_of_a_further_attempt_says_why_there_is_one() -> None:
    shown: Any = Shown()
    task = task_for(shown, ITEM, Labels(), State(uuid="x", phase=Phase.RUNNING, branch="b"), max_attempts=3)
    await task.prepare()
    assert "ended with" not in shown.body
    await task.comment(
        Phase.BACKOFF, outcome=Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is down.")
    )
    remembered = read_state(shown.body)
    assert remembered is not None
    task = task_for(shown, ITEM, Labels(), remembered.model_copy(update={"attempt": 2}), max_attempts=3)
    await task.prepare()
    assert "Attempt 1 ended with the reason ModelUnavailable: The model is down." in shown.body
