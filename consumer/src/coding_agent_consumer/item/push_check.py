"""Decides whether a task's work may be pushed to a branch; `BranchCheck` reads the facts for the decision."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from coding_agent_core.errors import CodingAgentError, ForgeNotFoundError
from coding_agent_core.forge.values import BranchFacts, ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import Item, answered_issue
from coding_agent_forges.rest.forge import Forge


class SourceRepositoryGoneError(CodingAgentError):
    """The repository that holds a change's branch was deleted, or our account cannot see it."""

    def __init__(self, item: Item) -> None:
        super().__init__(
            f"The repository that holds the branch of {item.display} was deleted, or the bot's account "
            "cannot see it, so there is nowhere to push. Restore it, give the account access to it, or open "
            f"a new change from a branch of {item.repository}."
        )


class PushNotAllowedError(CodingAgentError):
    """The work must not be pushed to this branch; nothing was pushed."""


class RoundEndedError(CodingAgentError):
    """The round must not go on: its cause is gone, or somebody else has pushed. Nothing was pushed."""


def push_refusal(
    details: ItemDetails, prefix: str, repository: str, branch: str, facts: BranchFacts
) -> str | None:
    """Return, as text for people, why a task's work must not be pushed to a branch; `None` if it may be.

    A task for an issue has a branch of its own in the item's repository. A task for a change has the change's
    branch, in the item's repository or a fork of it: people who open a change from any other repository have
    no say there. Our account's rights do not decide, because it may be allowed to push everywhere.

    The agent's own branches may be protected: a rule for all branches covers them too, and an administrator
    can permit the account to push there.

    Args:
        details: the item's details.
        prefix: the prefix of the branches for issues.
        repository: full path of the repository that is pushed to.
        facts: facts about the branch.
    """
    item = details.item
    where = f"The branch `{branch}` of {repository}"
    own = repository.casefold() == item.repository.casefold()
    if facts.archived:
        return f"{repository} is archived, so nothing can be pushed there. Unarchive it, then try again."
    if item.kind is ItemKind.ISSUE:
        if not own:
            return f"{where} is not in the repository of {item.display}."
        if not branch.startswith(prefix) or branch == prefix:
            return f"{where} does not start with `{prefix}`, as every branch for an issue does."
    elif (repository, branch) != (details.head_repository, details.head_branch):
        return f"{where} is not the branch of {item.display}."
    elif not own and item.repository.casefold() not in facts.fork_of:
        return f"{repository}, which holds the branch of {item.display}, is not a fork of {item.repository}."
    if branch == facts.default:
        return f"{where} is the default branch there, and the agent never pushes to one. Use another branch."
    if facts.protected and not (own and answered_issue(branch, prefix)):
        return f"{where} is protected, and the agent never pushes to a protected branch. Use another branch."
    return None


@dataclass(frozen=True)
class BranchCheck:
    """Asks the forge whether a task's work may be pushed to a branch of one repository.

    Attributes:
        details: details of the task's item.
        prefix: the prefix of the branches for issues.
        repository: full path of the repository that is pushed to.
        lost: set when another consumer has the task, and continues from the branch as it is then.
    """

    forge: Forge
    details: ItemDetails
    prefix: str
    repository: str
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, branch: str) -> None:
        """Return if the branch may be pushed to; raise otherwise.

        Raises:
            PushNotAllowedError: the branch must not be pushed to.
            SourceRepositoryGoneError: the repository of a change's branch cannot be found.
            ForgeError: the facts cannot be read. Without an answer from the forge nothing may be pushed.
        """
        if self.lost.is_set():
            raise PushNotAllowedError("Another consumer has the task now, so nothing is pushed here.")
        item = self.details.item
        try:
            facts = await self.forge.branch_facts(self.repository, branch)
        except ForgeNotFoundError as error:
            if self.repository == item.repository:
                raise
            raise SourceRepositoryGoneError(item) from error
        refused = push_refusal(self.details, self.prefix, self.repository, branch, facts)
        if refused is not None and self.repository != item.repository:
            # The facts of a fork name the item's repository as it is called now.
            now = replace(self.details, item=(await self.forge.read(item)).item)
            refused = push_refusal(now, self.prefix, self.repository, branch, facts)
        if refused is not None:
            raise PushNotAllowedError(refused)
