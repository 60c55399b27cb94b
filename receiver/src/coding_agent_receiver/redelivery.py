"""Which failed deliveries the forge is asked to send again (requirement B4). Pure.

GitHub never sends a failed delivery again by itself. An event is missed as long as none of its deliveries was
taken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from coding_agent_core.forge.protocol import Hook, HookDelivery
from coding_agent_core.platforms import Platform
from coding_agent_core.settings import Settings

from coding_agent_receiver.github import COMMENT_EVENT

KEPT = timedelta(days=3)
"""How long GitHub keeps a delivery (its documentation, *Redelivering webhooks*)."""
LIMIT = 50
"""Missed events of one webhook that are looked at in one poll."""
_IN_VAIN = 5
"""Failed deliveries of an event since the receiver took others again: it is not tried any further."""


@dataclass(frozen=True)
class Missed:
    """The last delivery of each missed event.

    Attributes:
        again: the receiver has taken something since they failed, or in the same second: send them all again,
            in this order, that of the events.
        probes: it has not: send one of them, to find out. The least tried first.
    """

    again: tuple[HookDelivery, ...] = ()
    probes: tuple[HookDelivery, ...] = ()


def wanted(settings: Settings) -> bool:
    """Whether the poll is to look for missed deliveries."""
    of = settings.github.redelivery
    return settings.task_source is Platform.GITHUB and bool(of.repositories or of.organizations)


def ours(hooks: Iterable[Hook], url: str) -> list[Hook]:
    """The webhooks that send to us."""
    return [hook for hook in hooks if hook.url.rstrip("/") == url.rstrip("/")]


def events(settings: Settings) -> frozenset[str]:
    """Names of the events that can mean something to us."""
    commands = {COMMENT_EVENT} if settings.webhook.commands.enabled else set()
    return frozenset(settings.webhook.github.events) | commands


def missed(log: Iterable[HookDelivery], of: Collection[str]) -> Missed:
    """What was missed.

    Args:
        log: the deliveries of one webhook, all of them since the oldest event in question.
        of: names of the events that matter.
    """
    deliveries = sorted(log, key=lambda each: (each.at, each.id))
    taken = [each.at for each in deliveries if each.succeeded]
    by_event: dict[str, list[HookDelivery]] = {}
    for each in deliveries:
        by_event.setdefault(each.guid, []).append(each)
    again: list[list[HookDelivery]] = []
    probes: list[list[HookDelivery]] = []
    for tries in by_event.values():
        if tries[0].event in of and not any(each.succeeded for each in tries) and not _in_vain(tries, taken):
            # GitHub tells whole seconds. Of two in one second the success counts: sent in vain, once, is the
            # lesser evil; else one event per poll would be sent again.
            up = bool(taken) and taken[-1] >= tries[-1].at
            (again if up else probes).append(tries)
    return Missed(
        again=tuple(tries[-1] for tries in again),
        probes=tuple(tries[-1] for tries in sorted(probes, key=len)),
    )


def turns(deliveries: Sequence[HookDelivery], chance: Random) -> tuple[HookDelivery, ...]:
    """Those that are looked at in this poll, in their order: all, or `LIMIT` of them by chance.

    By chance, so that many that lead to nothing (their label is gone) hold nobody up.
    """
    if len(deliveries) <= LIMIT:
        return tuple(deliveries)
    return tuple(deliveries[each] for each in sorted(chance.sample(range(len(deliveries)), LIMIT)))


def _in_vain(tries: list[HookDelivery], taken: list[datetime]) -> bool:
    up_since = next((at for at in taken if at > tries[0].at), None)
    return up_since is not None and sum(each.at > up_since for each in tries) >= _IN_VAIN
