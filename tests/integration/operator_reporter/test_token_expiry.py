"""A token that expires soon, as an administrator sees it."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import pytest
from coding_agent_testbed.until import until

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import World


@pytest.mark.parametrize("flavour", ["gitlab", "github"])
def test_a_token_that_expires_soon_is_a_metric_and_an_event_of_the_reporters_pod(
    flavour: str, world: World, start: Callable[..., Reporter]
) -> None:
    user = world.forge.user("coding-agent-bot")
    ends = datetime.now(UTC).date() + timedelta(days=9)
    world.forge.run(lambda: setattr(user, "token_expires_at", ends))

    def days_left() -> int:
        return (datetime.combine(ends, time(), UTC) - datetime.now(UTC)).days

    before = days_left()
    process = start()
    series = f'coding_agent_forge_token_expiry_timestamp_seconds{{host="{world.host}"}}'
    until("the metric is there", lambda: series in process.probe("/metrics")[1])
    assert process.metric(series) == datetime.combine(ends, time(), UTC).timestamp()
    [(reason, message)] = until("there is an Event", lambda: world.events(process.pod))
    assert reason == "TokenExpiresSoon"
    sentence = f"The token for {world.host} expires at {ends} 00:00 UTC, in %d days."
    assert any(sentence % days in message for days in (before, days_left())), "midnight may be in between"
    assert f"{flavour}.personal_access_token" in message, "it says where to set the new one"
