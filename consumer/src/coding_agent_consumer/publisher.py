"""Publishes the workspace's work on the forge: at the end, and meanwhile in case the attempt is killed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.retry import while_unavailable

from coding_agent_consumer.agent.protocol import OnStep, Step
from coding_agent_consumer.repository import Author, BareClone
from coding_agent_consumer.workspace.protocol import Workspace

_logger = logging.getLogger("coding_agent.publisher")
_CHECKPOINT_SECONDS = 60.0
"""For pushing unfinished work: the model waits meanwhile."""
_CHECKPOINT_PATIENCE = 10.0
"""Seconds in which the push of a checkpoint is retried while the forge is not available."""


@dataclass
class Publisher:
    """
    Attributes:
        title: of the item.
        footer: last line of each commit's message.
        clock: monotonic seconds.
    """

    repository: BareClone
    workspace: Workspace
    author: Author
    title: str
    footer: str
    clock: Callable[[], float] = time.monotonic
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def has_work(self) -> bool:
        """The branch is on the forge."""
        return self.repository.resumed or self.repository.pushed != self.repository.start_point

    async def commit(self, subject: str, body: str = "") -> None:
        """Commit what the workspace holds, if it differs from what was committed.

        Raises:
            WorkspaceGoneError: the workspace does not answer.
            WorkspaceRefusedError: it cannot tell what changed.
            PatchRefusedError: the change must not be committed.
        """
        async with self._one_at_a_time:
            patch = await self.workspace.diff()
            message = "\n\n".join(filter(None, (subject, body, self.footer))) + "\n"
            await self.repository.commit(patch, message, self.author)

    async def push(self) -> None:
        """Push what was committed and is not on the forge yet.

        Raises:
            ForgeError: as `BareClone.push`.
        """
        async with self._one_at_a_time:
            if self.repository.pushed == self.repository.tip:
                return
            await self.repository.push()
            _logger.info("Pushed %s: %s", self.repository.tip[:12], self.footer)

    def with_checkpoints(self, on_step: OnStep, interval: float) -> OnStep:
        """Also push unfinished work after a step, at most once in `interval` seconds; 0: never.

        An attempt that is killed (out of memory, its node lost) can no longer push.
        """
        if not interval:
            return on_step
        last = self.clock()

        async def then_push(step: Step) -> None:
            nonlocal last
            await on_step(step)
            if self.clock() - last >= interval:
                # In a task of its own: an agent that is stopped does not stop a push half-way.
                await asyncio.shield(asyncio.ensure_future(self._checkpoint()))
                last = self.clock()

        return then_push

    async def _checkpoint(self) -> None:
        try:
            async with asyncio.timeout(_CHECKPOINT_SECONDS):
                await self.commit(self.unfinished)
                await while_unavailable(self.push, within=_CHECKPOINT_PATIENCE, logger=_logger)
        except (CodingAgentError, TimeoutError) as error:
            _logger.warning("Could not push the work so far; the next checkpoint retries: %s", error)

    @property
    def unfinished(self) -> str:
        """Subject of a commit that holds unfinished work."""
        return f"Work so far on {self.title}"
