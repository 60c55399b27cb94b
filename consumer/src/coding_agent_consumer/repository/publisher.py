"""When the workspace's work is committed and pushed: at its end, and at checkpoints before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coding_agent_core.errors import CodingAgentError, WithdrawnError
from coding_agent_core.forge.values import CommitIdentity
from coding_agent_core.platforms.text import one_line
from coding_agent_core.runtime.retry import Deadline, while_unavailable

from coding_agent_consumer.agent_interface import OnStep, Step
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.commits import InvalidPatchError, commit_message
from coding_agent_consumer.repository.git_errors import RemoteMovedError
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceRequestError

if TYPE_CHECKING:
    from coding_agent_consumer.repository.ssh_signatures import SshSigner

_logger = logging.getLogger("coding_agent.publisher")
_CHECKPOINT_SECONDS = 60.0
"""One push of unfinished work may take this long: the model waits for it."""
_NOTE_LENGTH = 1000
_CHECKPOINT_PATIENCE = 10.0
"""Seconds for which the push of a checkpoint is retried while the forge is not available."""


@dataclass
class Publisher:
    """Publishes the workspace's work on the forge: at the end, and earlier in case the attempt is killed.

    Attributes:
        title: the item's title.
        footer: the line of each commit's message that names the item.
        mark: returns the line that marks the finished work, for the id of its files; `None`: it has none.
        asked_by: the co-author of each commit.
        signer: signs each commit; `None`: commits are not signed.
        quotes_summary: whether a commit's message has the summary and not only the item's title.
        must_end: set once a checkpoint could not push because somebody else has pushed to the branch, or
            because the run was withdrawn.
    """

    repository: BareClone
    author: CommitIdentity
    title: str
    footer: str
    mark: Callable[[str], str] | None = None
    asked_by: CommitIdentity | None = None
    signer: SshSigner | None = None
    quotes_summary: bool = True
    must_end: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _finished: tuple[str, str] = field(default=("", ""), init=False)
    """The last commit of finished work, and its message without the mark."""

    @property
    def pushed_branch(self) -> str | None:
        """The work branch; `None` if it is not on the forge."""
        repository = self.repository
        there = repository.resumed or repository.pushed != repository.start_point
        return repository.branch if there else None

    @property
    def has_work(self) -> bool:
        """Whether anything was committed since the start point."""
        return self.repository.tip != self.repository.start_point

    async def commit(self, workspace: Workspace, summary: str = "", *, finished: bool) -> str:
        """Commit the workspace's work, if it differs from what was committed.

        Args:
            summary: the model's summary of the work.

        Returns:
            a text for people about the work that was taken; usually empty.

        Raises:
            WorkspaceGoneError: the workspace does not answer.
            InvalidPatchError: the change must not be committed, the workspace cannot make a patch of it, or
                the work consists only of files that are too large.
        """
        async with self._one_at_a_time:
            try:
                patch = await workspace.diff()
            except WorkspaceRequestError as error:
                raise InvalidPatchError(str(error)) from error
            if finished and patch.left_out and not patch.data:
                raise InvalidPatchError(patch.too_large)
            notes = [patch.too_large] if patch.left_out else []
            if patch.source:
                notes.append(f"The work was not in the checked-out files; it was taken from {patch.source}.")
            for note in notes:
                _logger.warning("%s", one_line(note, _NOTE_LENGTH))

            def message(mark: str) -> str:
                return commit_message(
                    summary if self.quotes_summary else "",
                    finished=finished,
                    item_title=self.title,
                    footer=f"{self.footer}\n\n{mark}".rstrip(),
                    asked_by=self.asked_by,
                )

            def marked(tree: str) -> str:
                return message(self.mark(tree) if finished and self.mark is not None else "")

            commit = await self.repository.commit(patch.data, marked, self.author, self.signer)
            if finished and commit is not None:
                self._finished = commit, message("")
            return " ".join(notes)

    async def remove_mark(self) -> None:
        """Remove the mark of the last commit, because its work turned out not to be finished."""
        commit, message = self._finished
        async with self._one_at_a_time:
            if self.repository.tip == commit and self.mark is not None:
                await self.repository.reword(message, self.author, self.signer)

    async def push(self) -> None:
        """Push what was committed and is not on the forge yet; raises as `BareClone.push`."""
        async with self._one_at_a_time:
            if self.repository.pushed == self.repository.tip:
                return
            await self.repository.push()
            _logger.info("Pushed %s: %s", self.repository.tip[:12], self.footer)

    def with_checkpoints(self, workspace: Workspace, on_step: OnStep, interval: float) -> OnStep:
        """Extend `on_step` by a push of unfinished work, at most every `interval` seconds; 0: never.

        An attempt that is killed (out of memory, or its node is lost) can no longer push.
        """
        if not interval:
            return on_step
        due = Deadline.after(interval)

        async def then_push(step: Step) -> None:
            nonlocal due
            await on_step(step)
            if due.passed:
                # The push has an asyncio task of its own, so that stopping the agent does not interrupt it.
                await asyncio.shield(asyncio.ensure_future(self._checkpoint(workspace)))
                due = Deadline.after(interval)

        return then_push

    async def _checkpoint(self, workspace: Workspace) -> None:
        try:
            async with asyncio.timeout(_CHECKPOINT_SECONDS):
                await self.commit(workspace, finished=False)
                if self.repository.tip == self._finished[0]:
                    return  # whether it keeps its mark is known only after its verification
                await while_unavailable(self.push, within=_CHECKPOINT_PATIENCE, logger=_logger)
        except (RemoteMovedError, WithdrawnError):
            self.must_end.set()
        except (CodingAgentError, TimeoutError) as error:
            # A checkpoint only saves work in case the attempt is killed, so it must not fail the attempt.
            why = str(error) or f"it took more than {_CHECKPOINT_SECONDS:g} s"
            _logger.warning("Could not push the work so far; the next checkpoint retries: %s", why)
