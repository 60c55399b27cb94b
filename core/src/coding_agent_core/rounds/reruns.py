"""Asks the forge to run checks again, while no round works on the change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, NotYetError
from coding_agent_core.forge.item_forge import ItemForge
from coding_agent_core.rounds.checks import refusal
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import Rerun, named
from coding_agent_core.task.round_record import RerunEntry

_logger = logging.getLogger("coding_agent.rounds")


@dataclass(frozen=True)
class RerunResult:
    """The result of asking the forge to run checks again.

    Attributes:
        entries: what the record of the change has to keep, also if the forge refused or its answer was lost.
        sentence: for people; empty if nothing was asked. It contains names of checks, which are foreign text.
    """

    entries: tuple[RerunEntry, ...] = ()
    sentence: str = ""


async def run_again(forge: ItemForge, change: Item, reruns: Iterable[Rerun], at: datetime) -> RerunResult:
    """Ask the forge to run these checks again. Errors of the forge are logged, and never raised.

    Args:
        at: the time of the decision, by the forge's clock.
    """
    entries, done, unknown, refused = list[RerunEntry](), list[str](), list[str](), list[str]()
    for rerun in reruns:
        entry = RerunEntry(head=rerun.head, check=rerun.check, run=rerun.run, at=at)
        try:
            await forge.rerun_check(change, rerun.run)
        except ForgeUnavailableError as error:
            _logger.warning("%s", error)
            if error.repeatable or isinstance(error, NotYetError):
                continue  # the forge certainly did nothing
            # The check may run again. This counts as asked, or a forge whose answers are lost would be asked
            # without a limit.
            unknown.append(rerun.name)
            entry = entry.model_copy(update={"unanswered": True})
        except ForgeError as error:
            _logger.warning("A check of %s is not run again: %s", change.display, error)
            refused.append(rerun.name)
            entry = entry.model_copy(update={"refused": True})
        else:
            _logger.info("%s: %s runs again, because %s", change.display, rerun.name, rerun.why)
            done.append(f"{rerun.name} ({rerun.why})")
        entries.append(entry)
    where = f"on commit {entries[0].head[:12]}" if entries else ""
    sentences = [f"The forge was asked to run these checks again {where}: {named(done)}."] if done else []
    if unknown:
        sentences.append(
            f"The forge was asked to run these checks again {where}, but its answer was lost:"
            f" {named(unknown)}."
        )
    if refused:
        sentences.append(refusal(change, named(refused), where))
    return RerunResult(tuple(entries), " ".join(sentences))
