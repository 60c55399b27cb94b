"""A forge that is down is waited for, within limits."""

import logging
import random

import pytest
from coding_agent_core.errors import ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.retry import Clock, while_unavailable

LOGGER = logging.getLogger("test")


class Forge:
    """A forge that fails so often, with this error."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def call(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return self.calls


async def waited(forge: Forge, within: float) -> list[float]:
    """The waits between the calls."""
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    await while_unavailable(
        forge.call,
        within=within,
        logger=LOGGER,
        clock=Clock(sleep=pause, chance=random.Random(1).random),
    )
    return waits


async def test_it_is_tried_until_the_forge_is_there_with_growing_waits() -> None:
    waits = await waited(Forge(9, ForgeUnavailableError("down")), within=600)
    assert len(waits) == 9
    assert waits[0] <= 1
    assert 30 <= waits[-1] <= 60


async def test_what_the_forge_asks_for_is_waited() -> None:
    [wait] = await waited(Forge(1, ForgeUnavailableError("limited", retry_after=90)), within=600)
    assert 90 <= wait <= 91


@pytest.mark.parametrize(
    ("error", "within"),
    [
        (ForgeUnavailableError("limited", retry_after=90), 60),
        (ForgeUnavailableError("down"), 0),
        (ForgeRefusedError("no"), 600),
    ],
)
async def test_what_waiting_cannot_help_is_raised_at_once(error: Exception, within: float) -> None:
    forge = Forge(9, error)
    with pytest.raises(type(error)):
        await waited(forge, within=within)
    assert forge.calls == 1
