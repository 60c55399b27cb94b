"""Whether people still want an attempt's run, by the history of its item."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from coding_agent_core.errors import ForgeError, WithdrawnError
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.item_history import Position, furthest
from coding_agent_core.task.labels import Decision, Run, decide
from coding_agent_core.task.model import Item
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.rest.forge import Forge

_logger = logging.getLogger("coding_agent.attempt")
_LAST_READS = 20.0
"""Seconds that the reads after the work may take."""
_READS, _BEHIND = 5, 2.0
"""How often, and with how many seconds between, a history is read that does not show the label yet. If it
never does, the run is withdrawn; the reporter starts another one once the history shows the label."""
_RUN = "run"


@dataclass
class RunCheck:
    """Reads an item's history for the run of an attempt, and asks `labels.decide`, as the reporter does.

    The attempt asks when it starts, before each push and at its end, so that nothing is pushed while the
    reporter is away or busy. An attempt that is stopped does not ask: it only saves its work on its branch.

    Attributes:
        remembered: the position up to which the item's earlier runs answer, as its comment remembers it.
    """

    forge: Forge
    item: Item
    given: AttemptInput
    remembered: Position | None = None

    def __post_init__(self) -> None:
        trigger = self.given.task.request.trigger
        self._run = Run(
            _RUN,
            self.given.task.run,
            Position.parse(self.given.answered),
            by_label=trigger.by_label,
            is_round=trigger.round is not None,
        )

    @property
    def must_remember(self) -> bool:
        """Whether `remembered` matters: nobody has read the history for this run yet."""
        return self._run.answered is None

    async def __call__(self, *, current: bool = False) -> Decision:
        """Read the item's history, and return what it demands.

        Args:
            current: whether the history had the time to show the label that created this run.

        Raises:
            WithdrawnError: people have withdrawn the run.
            ForgeError: the history cannot be read.
        """
        history = await self.forge.item_history(self.item, self._run.answered or self.remembered)
        # What a history that may be behind does not show has not happened yet for this run.
        decision = decide(replace(history, current=current and history.current), [self._run], self.remembered)
        for _, position in decision.withdraw:
            raise WithdrawnError(str(position), closed=not history.open)
        for _, position in decision.confirm:
            self._run = replace(self._run, answered=position)
        # The events that the run answers already were not read again.
        return replace(decision, position=furthest([self._run.answered, decision.position]) or Position())

    async def at_end(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what the run answers; it is another one if the run was withdrawn by now."""
        try:
            async with asyncio.timeout(_LAST_READS):
                # The history may be behind the webhook that created this run.
                for current in (*[False] * _READS, True):
                    decision = await self(current=current)
                    if not decision.unsure:
                        break
                    await asyncio.sleep(_BEHIND)
        except WithdrawnError as error:
            update = {"reason": Reason.WITHDRAWN, "message": str(error), "answered": error.answered}
            return outcome.model_copy(update=update)
        except (ForgeError, TimeoutError) as error:
            problem = str(error) or "no answer"
            _logger.warning("A label that was applied during the work may start another run: %s", problem)
            return outcome
        return outcome.model_copy(update={"answered": str(decision.position)})
