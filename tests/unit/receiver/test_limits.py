"""S11: the allowlist, and GitHub's hook addresses in it."""

import asyncio
import time
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import httpx2
import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.receiver import RateLimit, rates_of
from coding_agent_receiver import app, limits
from coding_agent_receiver.limits import (
    SMALL_BODY,
    AddressCheck,
    Allowlist,
    BodyRoom,
    NoRoomError,
    Reservation,
)
from coding_agent_receiver.receiver_metrics import ReceiverMetrics
from prometheus_client import CollectorRegistry

from tests.fixtures.deliveries import NOW, RecordingSink, encode, github_headers, github_issue
from tests.fixtures.deliveries import settings as configured

SIZE = SMALL_BODY + 1


def allowlist(*entries: Any, answers: Any = ()) -> Any:
    """An allowlist whose meta endpoint gives the answers one after the other."""
    waiting = list(answers)

    def meta(request: Any) -> Any:
        assert str(request.url) == "https://api.github.com/meta"
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    settings = Settings.model_validate({"webhook": {"allowed_networks": entries}})
    return Allowlist(settings, client=httpx2.AsyncClient(transport=httpx2.MockTransport(meta)))


def hooks(*entries: Any) -> Any:
    return httpx2.Response(200, json={"hooks": list(entries), "web": ["0.0.0.0/0"]})


async def test_github_stands_for_its_published_hook_addresses() -> None:
    listed = allowlist("github", "192.0.2.0/24", answers=[hooks("192.30.252.0/22", "2a0a:a440::/29")])
    assert listed.check(ip_address("192.30.252.1")) is AddressCheck.UNKNOWN
    assert listed.check(ip_address("192.0.2.7")) is AddressCheck.ALLOWED
    await listed.follow_github(rounds=1)
    assert listed.check(ip_address("192.30.252.1")) is AddressCheck.ALLOWED
    assert listed.check(ip_address("2a0a:a440::1")) is AddressCheck.ALLOWED
    assert listed.check(ip_address("203.0.113.1")) is AddressCheck.REFUSED


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("refused"),
        httpx2.Response(200, json={"hooks": []}),
        httpx2.Response(200, json={"hooks": ["nonsense"]}),
    ],
)
async def test_when_github_cannot_be_asked_the_last_known_addresses_stay_in_force(
    failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    listed = allowlist("github", answers=[hooks("192.30.252.0/22"), failure])
    await listed.follow_github(rounds=2, refresh=0)
    assert listed.check(ip_address("192.30.252.1")) is AddressCheck.ALLOWED
    assert "the last known ones stay in force" in caplog.text


async def test_addresses_that_were_never_learnt_are_asked_for_again() -> None:
    listed = allowlist("github", answers=[httpx2.ConnectError("refused"), hooks("192.30.252.0/22")])
    await listed.follow_github(rounds=2, retry=0)
    assert listed.check(ip_address("192.30.252.1")) is AddressCheck.ALLOWED


async def test_a_larger_body_waits_for_room_and_one_client_gets_half_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LARGE_BODIES", 4 * SIZE)
    monkeypatch.setattr(limits, "LARGE_WAIT", 0.05)
    room = BodyRoom(largest=SIZE)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(room.reserve("a", SIZE))
        with pytest.raises(NoRoomError):
            await stack.enter_async_context(room.reserve("a", SIZE))
        for _ in range(2):
            await stack.enter_async_context(room.reserve("b", SIZE))
        with pytest.raises(NoRoomError):
            await stack.enter_async_context(room.reserve("c", SIZE))
        monkeypatch.setattr(limits, "LARGE_WAIT", 60.0)
        waiting = asyncio.create_task(enter(room, "c", SIZE))
        await asyncio.sleep(0)
        await stack.aclose()
        await waiting
    async with AsyncExitStack() as stack:
        for client in "aabb":
            await stack.enter_async_context(room.reserve(client, SIZE))


async def test_the_wait_for_room_is_not_taken_from_the_time_in_which_the_body_must_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LARGE_BODIES", SIZE)
    monkeypatch.setattr(app, "BODY_GRACE", 2.0)
    loop, waited = asyncio.get_running_loop(), 0.0
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + waited)
    short = encode(github_issue())
    body = short + b" " * (SIZE - len(short))
    parts, answered = [body[:1000], body[1000:]], []

    async def receive() -> Any:
        for _ in range(3):  # steps of the loop, in which a deadline that has passed ends the reading
            await asyncio.sleep(0)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        answered.append(message)

    headers = github_headers(body) | {"Content-Length": str(SIZE)}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/webhook/github",
        "client": ("127.0.0.1", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    receiver_settings = configured(max_body_bytes=SIZE)
    metrics = ReceiverMetrics(CollectorRegistry())
    intake = app.Intake(receiver_settings, RecordingSink(), metrics, lambda: NOW)
    endpoint: Any = app.WebhookEndpoint(receiver_settings, intake, Allowlist(receiver_settings))
    github = next(webhooks for webhooks in endpoint.webhooks if webhooks.platform is Platform.GITHUB)
    async with endpoint._room.reserve("another client", SIZE):
        answering = asyncio.create_task(endpoint.handle(github, scope, receive, send))
        await asyncio.sleep(0)
        waited = 4.0
    await answering
    assert answered[0]["status"] == 200


async def test_small_bodies_count_as_they_arrive_and_do_not_wait_for_larger_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SMALL_BODIES", 100)
    monkeypatch.setattr(limits, "LARGE_BODIES", SIZE)
    room = BodyRoom(largest=SIZE)
    async with room.reserve("a", SIZE), room.reserve("a", 90) as first, room.reserve("b", 90) as second:
        first.arrived(50)
        second.arrived(50)
        with pytest.raises(NoRoomError):
            first.arrived(1)
        assert first.evicted
        assert not second.evicted


async def test_the_oldest_small_body_gives_way_to_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SMALL_BODIES", 100)
    room = BodyRoom(largest=SIZE)
    ended: list[str] = []
    async with AsyncExitStack() as stack:

        async def body(client: str, name: str, count: int) -> Reservation:
            held = await stack.enter_async_context(room.reserve(client, 90))
            held.on_eviction = lambda: ended.append(name)
            held.arrived(count)
            return held

        await body("slow", "slow 1", 20)
        await body("slow", "slow 2", 30)
        await body("slow", "slow 3", 10)  # one client has half of the room
        assert ended == ["slow 1"]
        await body("other", "other 1", 30)
        await body("third", "third 1", 35)  # there is no room left: the client that holds most gives way
        assert ended == ["slow 1", "slow 2"]


async def enter(room: BodyRoom, client: str, size: int) -> None:
    async with room.reserve(client, size):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100/minute", ((100, 60),)),
        ("10/second; 100 per 2 Hours", ((10, 1), (100, 7200))),
        ("1/day|2/months,3/year", ((1, 86_400), (2, 30 * 86_400), (3, 360 * 86_400))),
        ("often", None),
        ("100/minute;", None),
        ("-1/minute", None),
        ("100/week", None),
    ],
)
def test_rates_as_people_write_them(text: str, expected: tuple[tuple[int, int], ...] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="is not a rate limit"):
            rates_of(text)
    else:
        assert rates_of(text) == expected


def test_a_window_begins_with_its_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("coding_agent_receiver.limits.time.time", lambda: now)
    counted = limits.RateLimits(RateLimit(failed="2/minute; 3/hour"))
    assert [counted.failed("a") for _ in range(3)] == [None, None, 60]
    assert counted.failed("b") is None, "another client"
    now += 60
    assert counted.failed("a") == 3540, "the minute is over, the hour is not"
    now += 3540
    assert counted.failed("a") is None
