"""Whether a task's work may be pushed to a branch: the table of cases."""

from dataclasses import replace
from typing import Any, cast

import pytest
from coding_agent_consumer.item.push_check import (
    BranchCheck,
    PushNotAllowedError,
    SourceRepositoryGoneError,
    push_refusal,
)
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.values import BranchFacts, ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import Item
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.making import ITEM, details

PREFIX = "coding-agent/"
R2 = "coding-agent/issue-5-r2"
FORK = {"fork_of": frozenset({"o/r"})}


ISSUE = details(item=ITEM.model_copy(update={"repository": "o/R"}))


def change(repository: str | None, branch: str) -> ItemDetails:
    item = ISSUE.item.model_copy(update={"kind": ItemKind.CHANGE})
    return details(item=item, head_repository=repository, head_branch=branch)


@pytest.mark.parametrize(
    ("item", "repository", "branch", "facts", "refused"),
    [
        (ISSUE, "o/R", "coding-agent/issue-7", {}, None),
        (ISSUE, "o/r", "coding-agent/issue-7", {}, None),
        (ISSUE, "o/other", "coding-agent/issue-7", {}, "is not in the repository of"),
        (ISSUE, "o/R", "issue-7", {}, "does not start with `coding-agent/`"),
        (ISSUE, "o/R", "coding-agent/", {}, "does not start with"),
        (ISSUE, "o/R", "Coding-Agent/issue-7", {}, "does not start with"),
        (ISSUE, "o/R", "main", {}, "does not start with"),
        (ISSUE, "o/R", "coding-agent/trunk", {"default": "coding-agent/trunk"}, "is the default branch"),
        (ISSUE, "o/R", "coding-agent/issue-7", {"protected": True}, None),
        (ISSUE, "o/R", "coding-agent/stable", {"protected": True}, "is protected"),
        (ISSUE, "o/R", "coding-agent/issue-7", {"default": None}, None),
        (change("o/R", "feature"), "o/R", "feature", {}, None),
        (change("o/R", "feature"), "o/R", "other", {}, "is not the branch of o/R#7"),
        (change("o/R", "main"), "o/R", "main", {}, "is the default branch"),
        (change("o/R", "release"), "o/R", "release", {"protected": True}, "is protected"),
        (change("o/R", R2), "o/R", R2, {"protected": True}, None),
        (change("m/R", R2), "m/R", R2, {"protected": True, **FORK}, "is protected"),
        (change("m/R", "feature"), "m/R", "feature", FORK, None),
        (change("m/R", "feature"), "o/R", "feature", {}, "is not the branch of"),
        (change("m/R", "main"), "m/R", "main", FORK, "is the default branch"),
        (change("m/R", "feature"), "m/R", "feature", {}, "is not a fork of o/R"),
        (change("m/R", "f"), "m/R", "f", {"fork_of": frozenset({"x/y"})}, "is not a fork of o/R"),
        (change(None, "main"), "o/R", "main", {}, "is not the branch of"),
    ],
)
def test_push_refusal(
    item: ItemDetails, repository: str, branch: str, facts: dict[str, Any], refused: str | None
) -> None:
    known = BranchFacts(**{"default": "main", "protected": False, **facts})
    said = push_refusal(item, PREFIX, repository, branch, known)
    assert (said is None) is (refused is None), said
    assert (refused or "") in (said or "")


class Answers:
    """A forge of which only these questions are asked."""

    def __init__(self, answer: BranchFacts | ForgeError, details: ItemDetails) -> None:
        self.answer = answer
        self.details = details

    async def read(self, item: Item) -> ItemDetails:
        return self.details

    async def branch_facts(self, repository: str, branch: str) -> BranchFacts:
        if isinstance(self.answer, ForgeError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "repository", "raised"),
    [
        (BranchFacts("main", protected=False, fork_of=frozenset({"o/r"})), "m/R", None),
        (BranchFacts("main", protected=True, fork_of=frozenset({"o/r"})), "m/R", PushNotAllowedError),
        (ForgeNotFoundError("gone"), "m/R", SourceRepositoryGoneError),
        (ForgeNotFoundError("gone"), "o/R", ForgeNotFoundError),
        # The forge does not answer: nothing is pushed, and it is asked again.
        (ForgeUnavailableError("down"), "m/R", ForgeUnavailableError),
    ],
)
async def test_what_the_forge_answers(
    answer: BranchFacts | ForgeError, repository: str, raised: type[Exception] | None
) -> None:
    details = change(repository, "feature")
    check = BranchCheck(cast(Forge, Answers(answer, details)), details, PREFIX, repository)
    if raised is None:
        await check("feature")
        return
    with pytest.raises(raised):
        await check("feature")


async def test_a_fork_of_a_repository_that_was_renamed_meanwhile_is_pushed_to() -> None:
    details = change("m/R", "feature")
    renamed = replace(details, item=details.item.model_copy(update={"repository": "o/renamed"}))
    facts = BranchFacts("main", protected=False, fork_of=frozenset({"o/renamed"}))
    await BranchCheck(cast(Forge, Answers(facts, renamed)), details, PREFIX, "m/R")("feature")
    with pytest.raises(PushNotAllowedError):
        await BranchCheck(cast(Forge, Answers(facts, details)), details, PREFIX, "m/R")("feature")
