"""One attempt: clone, let the agent work in the workspace, take its work over, push, open the change.

The attempt knows neither queue nor labels. Whatever happens it returns an `Outcome`; work that was done is
pushed even when the attempt fails or is stopped, so that the next one continues from it.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
)
from coding_agent_core.forge.protocol import ItemDetails
from coding_agent_core.outcome import Outcome
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reasons import Reason, ReasonClass
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Item

from coding_agent_consumer.agent.last_lines import LastLines
from coding_agent_consumer.agent.prompt import instructions, prompt
from coding_agent_consumer.agent.protocol import Agent, Brief, Ending, OnStep, Step
from coding_agent_consumer.delivery import Delivery
from coding_agent_consumer.git import RemoteMovedError
from coding_agent_consumer.patience import StoppedError, patiently, pause_until, until_stopped
from coding_agent_consumer.repository import Author, PatchRefusedError, Repository
from coding_agent_consumer.tasks import Task
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError, WorkspaceRefusedError

_logger = logging.getLogger("coding_agent.attempt")

_T = TypeVar("_T")
OpenWorkspace = Callable[[], AbstractAsyncContextManager[Workspace]]
"""Starts a workspace, or connects to one that runs, for the time of the context."""


@dataclass
class Attempt:
    """What one attempt works with.

    Attributes:
        settings: those of the person who applied the label.
        issue_branch: where an issue's work goes.
        transcript: of this attempt.
        last_lines: takes its last steps.
        recap: what earlier attempts of the task did, for the model.
        stop: set to end the attempt early; what was done is still pushed.
        patience: seconds for which an attempt waits for a forge that is down, before its work and after it.
        grace: seconds after `stop` in which the work still waits for a forge that is down.
    """

    settings: Settings
    task: Task
    details: ItemDetails
    agent: Agent
    open_workspace: OpenWorkspace
    issue_branch: str
    transcript: Path | None
    last_lines: LastLines
    recap: str
    stop: asyncio.Event
    on_step: OnStep
    patience: float = 600.0
    grace: float = 60.0
    _ending: Ending | None = field(default=None, init=False)

    async def run(self) -> Outcome:
        """Run it to its end; raises only when cancelled from outside."""
        return self._with_usage(await self._outcome())

    def cut_off(self, reason: Reason, message: str) -> Outcome:
        """The outcome of an attempt that was cancelled from outside before it came to its end."""
        if self._ending is not None and self._ending.reason is Reason.COMPLETED:
            reason, message = Reason.FORGE_UNAVAILABLE, "The finished work could not be delivered in time."
        return self._with_usage(Outcome(reason=reason, message=message))

    def _with_usage(self, outcome: Outcome) -> Outcome:
        if self._ending is not None and not outcome.usage.requests:
            # The work was paid for even if it could not be delivered.
            outcome = outcome.model_copy(update={"usage": self._ending.usage})
        return outcome

    async def _outcome(self) -> Outcome:
        try:
            return await self._run()
        except StoppedError:
            if self._ending is None:
                return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped before it began.")
            return self.cut_off(Reason.CANCELLED, "The attempt was stopped before its work could be pushed.")
        except ForgeUnavailableError as error:
            return _outcome(Reason.FORGE_UNAVAILABLE, error, retry_after=error.retry_after)
        except ForgeRefusedError as error:
            return _outcome(Reason.FORGE_REFUSED, error)
        except ForgeNotFoundError as error:
            return _outcome(Reason.ITEM_GONE, error)
        except RemoteMovedError as error:
            # The next attempt starts from where the remote is now.
            return _outcome(Reason.FORGE_UNAVAILABLE, error)
        except (WorkspaceGoneError, WorkspaceRefusedError) as error:
            return _outcome(Reason.WORKSPACE_FAILED, error)
        except PatchRefusedError as error:
            return _outcome(Reason.CANNOT_BE_DONE, error)
        except CodingAgentError as error:
            return _outcome(Reason.INTERNAL, error)
        except Exception as error:
            _logger.exception("Attempt at %s failed unexpectedly", self.task.item.display)
            return _outcome(
                Reason.INTERNAL,
                f"The attempt failed unexpectedly ({type(error).__name__}); the consumer's log tells more.",
            )

    async def _run(self) -> Outcome:
        began = time.monotonic()
        consumer = self.settings.consumer
        clone_from, base, branch = self.task.target(self.details, self.issue_branch)
        allowed = min(self.patience, consumer.timeout_seconds)
        with tempfile.TemporaryDirectory(prefix="coding-agent-clone-") as folder:
            repository = await self._patiently(
                lambda: Repository.clone(
                    lambda: self.task.forge.clone_source(clone_from),
                    Path(folder) / "clone.git",
                    base=base,
                    branch=branch,
                ),
                within=allowed,
            )
            _logger.info(
                "Cloned %s, working on branch %s%s",
                clone_from,
                branch,
                " (continuing)" if repository.resumed else "",
            )
            brief = await self._patiently(self._brief, within=allowed - (time.monotonic() - began))
            async with self.open_workspace() as workspace:
                await workspace.seed(await repository.bundle(), branch)
                delivery = self._delivery(repository, workspace)
                on_step = delivery.with_checkpoints(self.on_step, consumer.checkpoint_interval)
                left = max(1.0, consumer.timeout_seconds - (time.monotonic() - began))
                self._ending = ending = await self.agent.work(
                    brief, workspace, stop=self.stop, timeout=left, on_step=on_step
                )
                await self._take_over(delivery, ending)
            return await self._conclude(ending, base, branch, has_work=delivery.has_work)

    def _delivery(self, repository: Repository, workspace: Workspace) -> Delivery:
        consumer = self.settings.consumer
        return Delivery(
            repository=repository,
            workspace=workspace,
            author=Author(consumer.commit_name, consumer.commit_email),
            title=self.details.title,
            footer=f"For {self.task.item.display}: {self.details.url}",
        )

    async def _brief(self) -> Brief:
        forge = self.task.forge
        own = await forge.whoami()
        return Brief(
            instructions=instructions(self.settings),
            prompt=prompt(
                self.details,
                await forge.comments(self.task.item),
                own_login=own,
                recap=self.recap,
            ),
            transcript=self.transcript,
            last_lines=self.last_lines,
        )

    async def _take_over(self, delivery: Delivery, ending: Ending) -> None:
        """Commit and push what the workspace holds."""
        done = ending.reason is Reason.COMPLETED
        try:
            subject = self.details.title if done else delivery.so_far
            await until_stopped(lambda: delivery.commit(subject, ending.summary), self.stop, grace=self.grace)
        except (WorkspaceGoneError, WorkspaceRefusedError, PatchRefusedError, StoppedError):
            if done:
                raise
            # How the attempt ended matters more than that its rest could not be saved.
        await self._delivered(delivery.push)

    async def _conclude(self, ending: Ending, base: str, branch: str, *, has_work: bool) -> Outcome:
        outcome = Outcome(
            reason=ending.reason,
            message=ending.message,
            summary=ending.summary,
            usage=ending.usage,
            retry_after=ending.retry_after,
            branch=branch if has_work else None,
        )
        if outcome.outcome_class is not ReasonClass.SUCCEEDED:
            return outcome
        if self.task.item.kind is ItemKind.CHANGE:
            return outcome.model_copy(update={"change_url": self.details.url})
        if not has_work:
            return outcome.model_copy(
                update={
                    "reason": Reason.NOTHING_TO_CHANGE,
                    "message": "The agent found nothing to change in the repository.",
                }
            )
        change = await self._delivered(
            lambda: self.task.forge.open_change(
                self.task.item,
                branch=branch,
                base=base,
                title=self.details.title,
                body=_change_body(self.details, ending.summary),
            )
        )
        return outcome.model_copy(update={"reason": Reason.COMPLETED, "change_url": change.url})

    async def _patiently(self, action: Callable[[], Awaitable[_T]], *, within: float) -> _T:
        """Ask the forge, waiting while it is down; given up at once when the attempt is stopped."""
        return await until_stopped(lambda: patiently(action, within=within, logger=_logger), self.stop)

    async def _delivered(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Deliver work even if the forge is down for some minutes: it exists nowhere else yet.

        Both things that are delivered may be done twice: a push of the same commit changes nothing, and a
        change is looked for before it is opened.
        """
        return await until_stopped(
            lambda: patiently(
                action,
                within=self.patience,
                logger=_logger,
                pause=lambda seconds: pause_until(self.stop, seconds),
                cap=30,
            ),
            self.stop,
            grace=self.grace,
        )


def log_steps(item: Item) -> OnStep:
    """Tells the log what the agent does."""

    async def log(step: Step) -> None:
        _logger.info("%s step %d: %s", item.display, step.number, step.title)

    return log


def _change_body(details: ItemDetails, summary: str) -> str:
    return f"{summary}\n\nCloses #{details.item.number}\n".lstrip()


def _outcome(reason: Reason, error: object, *, retry_after: float | None = None) -> Outcome:
    return Outcome(reason=reason, message=str(error), retry_after=retry_after)
