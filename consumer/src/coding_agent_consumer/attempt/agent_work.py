"""The agent's work in an attempt: in a workspace with the clone, through the gateway, checked and pushed.

`AgentWork` opens a workspace, lets the agent work within the attempt's time and allowance, and pushes
unfinished work from time to time. Then the commands of `verify` check the work, and it is pushed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from coding_agent_core.runtime.retry import any_of, run_until
from coding_agent_core.settings.attempt_settings import Signing
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.environment import RepositoryFile, VerifyCommand
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance, Usage

from coding_agent_consumer.agent_interface import Agent, Brief, Step
from coding_agent_consumer.attempt.time_limits import AttemptTime
from coding_agent_consumer.item.background import set_up
from coding_agent_consumer.repository.commits import InvalidPatchError
from coding_agent_consumer.repository.publisher import Publisher
from coding_agent_consumer.transcripts.store import Transcripts
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError, WorkspaceRequestError

if TYPE_CHECKING:
    from coding_agent_consumer.gateway.forwarding import Gateway
    from coding_agent_consumer.rounds.work import RoundWork

_logger = logging.getLogger("coding_agent.attempt")

MakeAgent = Callable[[Settings, "Gateway"], Agent]
"""Makes an agent that works with the settings and reaches the model through the gateway."""


@dataclass
class AgentWork:
    """The agent's work on one item.

    Attributes:
        settings: the settings with which the agent works: those of the user and the task apply.
        display: the item's name, for log lines.
        publisher: commits the work to the clone and pushes it.
        round: the round that this is the work of; `None` for a task that a person asked for.
        given_allowance: what the attempt may spend; `None`: there is no limit.
        record: saves the outcome known so far, in case this process is killed.
        variables: environment variables for the commands in the workspace.
        finished: whether the agent has finished its work.
        pushed: the branch to which the agent's work was pushed at its end, once it was.
    """

    settings: Settings
    display: str
    publisher: Publisher
    round: RoundWork | None
    time: AttemptTime
    transcripts: Transcripts
    make_agent: MakeAgent
    given_allowance: Allowance | None
    record: Callable[[Outcome], None] | None
    variables: Mapping[str, str]
    finished: bool = field(default=False, init=False)
    pushed: str | None = field(default=None, init=False)
    _gateway: Gateway | None = field(default=None, init=False)
    """The gateway is open while the agent works. Its counts are still read after that."""
    _committed: bool = field(default=False, init=False)
    """Whether the finished work was committed, so that nothing that its verification left is added to it."""

    @property
    def usage(self) -> Usage | None:
        """The agent's usage so far; `None` before its work begins."""
        return None if self._gateway is None else self._gateway.usage

    async def run(self, brief: Brief, file: RepositoryFile) -> Outcome:
        """Prepare a workspace with the clone, let the agent work in it, and push its work.

        Args:
            file: the repository's file, whose setup commands run before the agent starts.

        Raises:
            StoppedError: the attempt was stopped before the agent started.
            RoundEndedError: the round must not go on.
            WorkspaceGoneError: the workspace does not answer.
            InvalidPatchError: finished work must not be committed.
            ForgeError: finished work could not be pushed.
        """
        async with self._open_workspace() as workspace:
            repository = self.publisher.repository
            await workspace.seed(repository.seed(file.checkout))
            notes = await run_until(
                lambda: set_up(workspace, file, self.time.deadline, brief.scrub), self.time.stop
            )
            commands = self.settings.verify.commands_of(file)
            notes += self._notes_about(commands)
            worked = await self._work(replace(brief, prompt=brief.prompt + notes), workspace, commands)
            self.finished = worked.reason is Reason.COMPLETED
            worked = await self._publish(workspace, worked)
            self.pushed = self.publisher.pushed_branch
        return worked

    def _notes_about(self, commands: Sequence[VerifyCommand]) -> str:
        """Return what the prompt says about the commands that check the work, and about files."""
        # Most attempts have neither such commands nor commits that the forge signs, and import neither.
        notes = ""
        if commands:
            from coding_agent_consumer.verification.commands import note_about  # noqa: PLC0415

            notes += note_about(commands)
        if self.settings.consumer.commits.sign is Signing.GITHUB:
            from coding_agent_consumer.repository.forge_commits import NOTE  # noqa: PLC0415

            notes += NOTE
        return notes

    def _open_workspace(self) -> AbstractAsyncContextManager[Workspace]:
        workspace = self.settings.consumer.workspace
        return launch_workspace(
            workspace,
            hidden=[self.settings.context_storage.base_dir],
            readable=workspace.readable,
            environment=self.variables,
        )

    async def _work(self, brief: Brief, workspace: Workspace, commands: Sequence[VerifyCommand]) -> Outcome:
        """Let the agent work, and push its work from time to time. Then let the commands check the work."""
        # By now, the gateway has been imported beside the clone.
        from coding_agent_consumer.agent.upstreams import allowed_models, upstreams  # noqa: PLC0415
        from coding_agent_consumer.gateway.gateway_server import open_gateway  # noqa: PLC0415

        if self.round is not None:
            await self.time.before_work(self.round.check)
        settings = self.settings

        async def log_step(step: Step) -> None:
            _logger.info("%s step %d: %s", self.display, step.number, step.title)

        async with (
            open_gateway(
                upstreams(settings),
                self._allowance,
                prices=settings.llm.prices,
                models=allowed_models(settings),
                provider_tools=settings.gateway.provider_tools,
                timeout=settings.llm.request_timeout,
                host=settings.gateway.host,
                on_counted=self._record,
            ) as gateway,
            any_of(self.time.stop, gateway.exhausted, self.publisher.must_end) as stop,
        ):
            self._gateway = gateway
            self._record(gateway.usage)
            agent = self.make_agent(settings, gateway)
            on_step = self.publisher.with_checkpoints(
                workspace,
                log_step,
                # Each push of a round starts checks and asks for people's attention.
                settings.consumer.checkpoint_interval if self.round is None else 0,
            )

            async def work(given: Brief) -> Outcome:
                left = max(1.0, self.time.deadline.left)
                worked = await agent.work(given, workspace, stop=stop, timeout=left, on_step=on_step)
                return self._within_allowance(worked, gateway)

            worked = await work(brief)
            if not commands or worked.reason is not Reason.COMPLETED:
                return worked
            from coding_agent_consumer.verification.commands import WorkVerification  # noqa: PLC0415

            verification = WorkVerification(
                workspace=workspace,
                publisher=self.publisher,
                commands=commands,
                settings=settings,
                deadline=self.time.deadline,
                stop=self.time.stop,
                commit=lambda worked: self._with_commit(workspace, worked),
                work=work,
                steps=self.transcripts.lines.text,
            )
            return await verification.of(brief, worked)

    @property
    def _allowance(self) -> Allowance | None:
        return self.given_allowance if self.round is None else self.round.allowance(self.given_allowance)

    def _record(self, usage: Usage) -> None:
        if self.record is None or self._allowance is None:
            return
        message = "The agent ended before it could say how the attempt went."
        so_far = Outcome(reason=Reason.INTERNAL, message=message, usage=usage)
        self.record(self.transcripts.so_far(so_far))

    def _within_allowance(self, worked: Outcome, gateway: Gateway) -> Outcome:
        """Return the agent's outcome, as `BudgetExceeded` if the allowance ended it: agents report this in
        different ways."""
        stopped = worked.reason is Reason.CANCELLED and self.time.stop.is_set()
        if not gateway.exhausted.is_set() or stopped or worked.succeeded:
            return worked
        message = (
            f"The attempt may spend {self._allowance} on the model. It spent {gateway.spent}, and its "
            "next request did not fit."
        )
        return worked.model_copy(update={"reason": Reason.BUDGET_EXCEEDED, "message": message})

    async def _publish(self, workspace: Workspace, worked: Outcome) -> Outcome:
        """Commit and push the workspace's work. Return the outcome with notes for people about the work."""
        if self.round is not None and worked.reason is not Reason.COMPLETED:
            # A round pushes once, when its work is finished: the checks of another head, or a merge with
            # conflicts, would be another cause.
            return worked
        if not self._committed:
            worked = await self._with_commit(workspace, worked)
        if worked.reason is not Reason.COMPLETED:  # e.g. its verification failed after the commit
            await self.publisher.remove_mark()
        await self.time.after_work(self.publisher.push)
        return worked

    async def _with_commit(self, workspace: Workspace, worked: Outcome) -> Outcome:
        """Commit the workspace's work. Return the outcome with notes for people about the work."""
        completed = worked.reason is Reason.COMPLETED
        summary = worked.summary if self.round is None else self.round.public(worked.summary)
        try:
            note = await self.publisher.commit(workspace, summary, finished=completed)
        except (WorkspaceGoneError, WorkspaceRequestError, InvalidPatchError):
            if completed:
                raise
            # The reason why the attempt ended matters more than the loss of the rest of its work.
            return worked
        self._committed = completed
        if not note or note in worked.summary:
            return worked
        return worked.model_copy(update={"summary": f"{worked.summary}\n\n{note}".strip()})
