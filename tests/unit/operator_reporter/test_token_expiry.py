"""What the reporter says about tokens that expire, and when it asks the forge."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import Event
from coding_agent_forges.rest.forge import Forge
from coding_agent_operator.reporter.token_expiry import EXPIRES, TokenExpiry, expiry_event
from coding_agent_testbed.until import until_async
from prometheus_client import REGISTRY

from tests.unit.forges.wire import Wire, answer

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
APP = {"app_id": 1, "private_key_file": "/run/key.pem"}
PLACE = "the key `token` of the Secret `coding-agent-gitlab`"


@pytest.mark.parametrize(
    ("left", "reason", "when"),
    [
        (timedelta(days=300), "", ""),
        (timedelta(days=14, seconds=1), "", ""),
        (timedelta(days=14), "TokenExpiresSoon", "in 14 days"),
        (timedelta(days=1, hours=3), "TokenExpiresSoon", "in 1 day."),
        (timedelta(hours=3), "TokenExpiresSoon", "in less than a day"),
        (timedelta(), "TokenExpired", "expired at 2026-11-29 12:00 UTC"),
        (timedelta(days=-40), "TokenExpired", "expired at 2026-10-20 12:00 UTC"),
    ],
)
def test_what_is_said_before_and_after_the_expiry(left: timedelta, reason: str, when: str) -> None:
    event = expiry_event("gitlab.com", Platform.GITLAB, PLACE, NOW + left, NOW)
    assert (event.reason if event else "") == reason
    if event is not None:
        assert event.type == "Warning"
        assert "gitlab.com" in event.message
        assert when in event.message
        assert PLACE in event.message, "a person learns where to put the new token"


@pytest.mark.parametrize(
    ("platform", "verb"), [(Platform.GITHUB, "Regenerate it"), (Platform.GITLAB, "Rotate it")]
)
def test_a_person_reads_the_word_of_the_forges_page(platform: Platform, verb: str) -> None:
    event = expiry_event("forge.example.com", platform, PLACE, NOW + timedelta(days=3), NOW)
    assert event is not None
    assert f"in 3 days. {verb}" in event.message


def shown(host: str) -> float | None:
    """The metric of a host; `None` if there is no series."""
    return REGISTRY.get_sample_value(EXPIRES._name, {"host": host})


def token(expires: str | None) -> httpx2.Response:
    return answer(200, {"id": 1, "name": "agent", "expires_at": expires})


async def test_the_metric_follows_the_token_and_an_event_is_written_once_a_day(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the-first")
    wire = Wire([token("2026-12-05"), answer(401), token("2027-12-05"), token(None)])
    settings: Any = {"gitlab": {"personal_access_token": {"files": [str(file)]}}}
    forge = wire.forge(Platform.GITLAB, Settings.model_validate(settings))
    events: list[Event] = []
    now, seconds = NOW, 0.0

    async def emit(event: Event) -> None:
        events.append(event)

    expiry = TokenExpiry({"gitlab.com": forge}, emit, lambda: now, lambda: seconds)

    async def looks(hours: int) -> None:
        nonlocal now, seconds
        for _ in range(hours):
            now, seconds = now + timedelta(minutes=59), seconds + 3540
            await expiry.check("gitlab.com")

    await expiry.check("gitlab.com")
    assert shown("gitlab.com") == datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    assert wire.sent == [("GET", "/personal_access_tokens/self")]
    await looks(1)
    assert len(wire.sent) == 1, "the same token is asked about once an hour"
    await looks(1)
    assert len(wire.sent) == 2
    assert shown("gitlab.com") == datetime(2026, 12, 5, tzinfo=UTC).timestamp(), "a refusal forgets nothing"
    assert [event.reason for event in events] == ["TokenExpiresSoon"]

    file.write_text("rotated")
    await expiry.check("gitlab.com")
    assert len(wire.sent) == 3, "a new token is asked about at once"
    assert shown("gitlab.com") == datetime(2027, 12, 5, tzinfo=UTC).timestamp()
    await looks(30)
    assert shown("gitlab.com") is None, "a token that never expires has no series"
    assert len(events) == 1


async def test_a_reminder_comes_each_day_and_no_forge_is_asked_that_cannot_say_it(tmp_path: Path) -> None:
    expiring = answer(200, {"id": 1}, github_authentication_token_expiration="2026-12-05 09:00:00 +0900")
    wires = {
        Platform.GITLAB: Wire([token("2026-12-05")]),
        Platform.GITHUB: Wire([expiring]),
        Platform.GITEA: Wire([answer(500)]),
    }
    events: list[Event] = []
    now = NOW

    async def emit(event: Event) -> None:
        events.append(event)

    forges = cast("dict[str, Forge]", {platform: wires[platform].forge(platform) for platform in Platform})
    expiry = TokenExpiry(forges, emit, lambda: now, lambda: 0.0)
    for _ in range(8 * 24):
        for host in forges:
            await expiry.check(host)
        now += timedelta(hours=1)
    for name in ("gitlab", "github"):
        told = [event.reason for event in events if f"The token for {name}" in event.message]
        assert told == ["TokenExpiresSoon"] * 6 + ["TokenExpired"] * 2
    assert [wires[platform].sent for platform in (Platform.GITLAB, Platform.GITHUB, Platform.GITEA)] == [
        [("GET", "/personal_access_tokens/self")],
        [("GET", "/user")],
        [],
    ]
    assert shown(Platform.GITHUB) == datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    assert shown(Platform.GITEA) is None


async def test_a_defect_with_one_forge_stops_the_checks_of_no_other() -> None:
    emitted: list[Event] = []

    async def emit(event: Event) -> None:
        if "first" in event.message:
            raise OverflowError("date value out of range")
        emitted.append(event)

    hosts = ("first.example", "second.example")
    forges = cast(
        "dict[str, Forge]", {host: Wire([token("2026-12-05")]).forge(Platform.GITLAB) for host in hosts}
    )
    expiry = TokenExpiry(forges, emit, lambda: NOW, lambda: 0.0)
    work = asyncio.create_task(expiry.run())
    await until_async("one is checked", lambda: bool(emitted) or work.done(), interval=0.01)
    assert not work.done()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_github_app_and_a_token_without_an_end_have_no_expiry() -> None:
    wire = Wire([answer(200, {"id": 1})])
    assert await wire.forge(Platform.GITHUB).token_expiry() is None
    assert len(wire.sent) == 1
    app = Settings.model_validate({"github": {"app": APP}})
    forge = wire.forge(Platform.GITHUB)
    forge.settings = app.forge(Platform.GITHUB)
    assert await forge.token_expiry() is None
    assert len(wire.sent) == 1, "its tokens are renewed"


async def test_a_token_that_cannot_be_read_is_logged_once_an_hour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    settings: Any = {"gitlab": {"personal_access_token": {"files": [str(file)]}}}
    file.write_text("the-first")
    forge = Wire([token("2027-12-05")]).forge(Platform.GITLAB, Settings.model_validate(settings))
    file.write_text("")
    seconds = 0.0

    async def emit(event: Event) -> None:
        raise AssertionError(event)

    expiry = TokenExpiry({"gitlab.com": forge}, emit, lambda: NOW, lambda: seconds)

    def logged() -> int:
        return sum("It is not known" in record.getMessage() for record in caplog.records)

    for minute in range(90):
        seconds = 60.0 * minute
        await expiry.check("gitlab.com")
    assert logged() == 2
    file.write_text("the-second")
    await expiry.check("gitlab.com")
    file.write_text("")
    await expiry.check("gitlab.com")
    assert logged() == 3, "a new failure is logged at once"
