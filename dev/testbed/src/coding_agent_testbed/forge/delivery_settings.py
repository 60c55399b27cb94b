"""How webhooks reach their receivers: at once, or late, twice, out of order, or not at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class DeliverySettings(BaseModel):
    """What happens to the deliveries; as it stands, each is sent once and at once.

    The same event always meets the same fate: it depends on the seed, the item, who did what, and for the
    how manyth time, and never on what other items do at the moment.

    Attributes:
        late_seconds: each delivery is sent so many seconds after its event, evenly between the two.
        doubled: share of the events that are delivered twice, each time with its own delay.
        other_ids: share of the second deliveries that have an id of their own, as when two webhooks are set
            up for one receiver.
        reordered: share of the deliveries that are sent only when the next one about the same item has been,
            or after `held_seconds` if none comes.
        dropped: share of the deliveries that never leave; the forge logs them as failed.
        timeout_seconds: a receiver has so many seconds to answer.
        unlabeled_lists_label: an `unlabeled` event still lists the removed label on its item, as in every
            payload that GitHub recorded (npm `@octokit/webhooks-examples`). GitLab has no such event.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    late_seconds: tuple[float, float] = (0.0, 0.0)
    doubled: Share = 0.0
    other_ids: Share = 0.0
    reordered: Share = 0.0
    held_seconds: float = Field(default=5.0, ge=0, le=3600)
    dropped: Share = 0.0
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    unlabeled_lists_label: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        least, most = self.late_seconds
        if not 0 <= least <= most <= 3600:
            raise ValueError("late_seconds: give the least and the most seconds, 0 to 3600")
        return self

    def copies(self, event: str) -> list[Copy]:
        """How an event is delivered: one entry for each delivery.

        Args:
            event: names the event among all; the draws depend on nothing else but the seed.
        """
        random = Random(f"{self.seed} {event}")
        first, second = self._copy(random), self._copy(random)
        doubled, other_id = random.random() < self.doubled, random.random() < self.other_ids
        return [first, Copy(second.late, second.held, second.dropped, other_id)] if doubled else [first]

    def _copy(self, random: Random) -> Copy:
        late = random.uniform(*self.late_seconds)
        held = self.held_seconds if random.random() < self.reordered else None
        return Copy(late, held, random.random() < self.dropped)


@dataclass(frozen=True)
class Copy:
    """One delivery of an event.

    Attributes:
        late: seconds before it is sent.
        held: it is sent after the next delivery about the same item, or so many seconds later.
        dropped: it is never sent.
        other_id: it does not have the id of the first delivery.
    """

    late: float = 0.0
    held: float | None = None
    dropped: bool = False
    other_id: bool = False
