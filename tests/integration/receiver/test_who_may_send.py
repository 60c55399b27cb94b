"""S10, S11, B1: rate limits, proxies, networks and the rotation of secrets."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.model import Settings
from coding_agent_receiver import turns
from coding_agent_receiver.limits import Allowlist, RateLimits
from coding_agent_receiver.server import create_app
from coding_agent_testbed.until import until_async

from tests.fixtures.deliveries import (
    RecordingSink,
    encode,
    github_headers,
    github_issue,
    gitlab_headers,
    gitlab_issue,
    settings,
    sign,
)
from tests.fixtures.receiver import Receiver, receiving

FORGED = {"X-Hub-Signature-256": "sha256=" + "0" * 64}


async def test_only_requests_that_fail_verification_are_limited() -> None:
    async with receiving(settings(rate_limit={"failed": "3/minute"}), RecordingSink()) as receiver:
        for index in range(10):
            assert (await receiver.github(github_issue(), delivery=f"d-{index}")).status_code == 200
        statuses = [(await receiver.github(github_issue(), **FORGED)).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        # Both endpoints count together, and no other way of failing gets around it.
        assert (await receiver.gitlab(gitlab_issue(), **{"X-Gitlab-Token": "guess"})).status_code == 429
        response = await receiver.http.post("/webhook/github")
        assert response.status_code == 429
        assert 0 < int(response.headers["Retry-After"]) <= 60
        assert response.json() == {"status": "error", "reason": "too many requests"}
        # An authentic event from the same address is not lost.
        assert (await receiver.github(github_issue(), delivery="d-99")).status_code == 200


async def test_authentic_requests_are_limited_where_that_is_wanted() -> None:
    limited = settings(rate_limit={"verified": "2/minute"})
    async with receiving(limited, RecordingSink()) as receiver:
        statuses = [
            (await receiver.github(github_issue(), delivery=f"d-{index}")).status_code for index in range(4)
        ]
    assert statuses == [200, 200, 429, 429]


async def test_behind_a_trusted_proxy_each_client_is_limited_by_the_hop_that_the_proxy_wrote() -> None:
    proxied = settings(rate_limit={"failed": "1/minute"}, trusted_proxies=["127.0.0.0/8"])
    async with receiving(proxied, RecordingSink()) as receiver:

        async def forged(forwarded: Any) -> Any:
            return (await receiver.github({}, **FORGED, **{"X-Forwarded-For": forwarded})).status_code

        assert await forged("198.51.100.1") == 401
        assert await forged("198.51.100.1") == 429
        assert await forged("203.0.113.66, 198.51.100.1") == 429
        assert await forged("198.51.100.2") == 401


def test_many_addresses_cannot_take_unbounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coding_agent_receiver.limits._BUCKETS", 64)
    limits = RateLimits(settings().webhook.rate_limit)
    for number in range(200):
        limits.failed(f"198.{number}")
    assert 40 < len(limits._windows) <= 64


async def test_only_allowed_networks_may_send() -> None:
    listed = settings(allowed_networks=["192.0.2.0/24"], trusted_proxies=["127.0.0.1"])
    async with receiving(listed, RecordingSink()) as receiver:
        for forwarded, status in (("192.0.2.7", 200), ("192.0.2.7, 203.0.113.1", 403)):
            response = await receiver.github(github_issue(), **{"X-Forwarded-For": forwarded})
            assert response.status_code == status
        assert (await receiver.http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("hooks", "status"), [(["127.0.0.0/8"], 200), (["192.30.252.0/22"], 403), (None, 503)]
)
async def test_githubs_addresses_are_learnt_when_the_receiver_starts(hooks: Any, status: int) -> None:
    """With `github` in the list; `None`: the meta endpoint is down and was never reached."""
    configured = settings(allowed_networks=["github"])

    def meta(_: Any) -> Any:
        return httpx2.Response(500) if hooks is None else httpx2.Response(200, json={"hooks": hooks})

    listed = Allowlist(configured, client=httpx2.AsyncClient(transport=httpx2.MockTransport(meta)))
    sink = RecordingSink()
    app = create_app(configured, sink, allowlist=listed)
    async with receiving(configured, sink, app) as receiver:
        response = await receiver.github(github_issue())
    assert response.status_code == status
    assert ("Retry-After" in response.headers) is (status == 503)


async def test_a_secret_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first\n")
    mounted = Settings.model_validate(
        {"webhook": {"github": {"secret": {"files": [file]}}, "gitlab": {"token": {"files": [file]}}}}
    )
    body = encode(github_issue())

    async def statuses(receiver: Receiver, secret: Any) -> Any:
        github = await receiver.http.post(
            "/webhook/github",
            content=body,
            headers=github_headers(body) | {"X-Hub-Signature-256": sign(body, secret)},
        )
        gitlab = await receiver.http.post(
            "/webhook/gitlab",
            content=encode(gitlab_issue()),
            headers=gitlab_headers() | {"X-Gitlab-Token": secret},
        )
        return github.status_code, gitlab.status_code

    async with receiving(mounted, RecordingSink()) as receiver:
        assert await statuses(receiver, "first") == (200, 200)
        # Kubernetes replaces the file, it does not write into it.
        (tmp_path / "fresh").write_text("second\n")
        (tmp_path / "fresh").rename(file)
        assert await statuses(receiver, "second") == (200, 200)
        assert await statuses(receiver, "first") == (401, 401)


async def test_an_event_that_waits_too_long_for_its_turn_is_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "STORING_AT_ONCE", 1)
    sink = RecordingSink(hold=asyncio.Event())
    development = Development(webhook_timeout=0.1)  # meant to expire
    hasty = settings().model_copy(update={"development": development})
    async with receiving(hasty, sink) as receiver:
        stored = asyncio.create_task(receiver.github(github_issue()))
        await sink.entered.wait()
        shed = await receiver.github(github_issue(number=8), delivery="d-2")
        assert (shed.status_code, shed.json()["reason"]) == (503, "too many webhooks at once")
        assert "Retry-After" in shed.headers
        assert (await receiver.http.get("/livez")).status_code == 200
        assert sink.hold
        sink.hold.set()
        assert (await stored).json()["status"] == "success"
        again = await receiver.github(github_issue(number=8), delivery="d-2")
        assert again.json()["status"] == "success"


async def test_a_burst_from_one_address_is_stored_with_its_withdrawals_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many events as can be stored or wait, each on its own connection, as from an Ingress controller."""
    lines: list[turns.Turns] = []
    create = turns.Turns.__init__

    def remembered(self: turns.Turns, _: float) -> None:
        create(self, 120)
        lines.append(self)

    monkeypatch.setattr(turns.Turns, "__init__", remembered)
    sink = RecordingSink(hold=asyncio.Event())
    labels, closed = turns.STORING_AT_ONCE + turns.IN_LINE - 20, 20

    async def arrived(count: int) -> None:
        def there() -> int:
            return len(lines[0].waiting) + len(lines[0].busy)

        await until_async(lambda: f"{count} have arrived; {there()} are there", lambda: there() >= count)

    async with receiving(settings(), sink) as receiver:
        most = httpx2.Limits(max_connections=labels + closed)
        async with httpx2.AsyncClient(
            base_url=receiver.http.base_url, limits=most, timeout=120, trust_env=False
        ) as http:

            async def send(payload: dict[str, Any], delivery: str) -> int:
                body = encode(payload)
                headers = github_headers(body, delivery=delivery)
                return (await http.post("/webhook/github", content=body, headers=headers)).status_code

            sent = [send(github_issue(number=index + 1), f"l-{index}") for index in range(labels)]
            first = [asyncio.create_task(one) for one in sent]
            await arrived(labels)
            gone = range(labels, labels - closed, -1)
            last = [asyncio.create_task(send(github_issue("closed", None, number=n), f"c-{n}")) for n in gone]
            await arrived(labels + closed)
            assert sink.hold
            sink.hold.set()
            statuses = await asyncio.gather(*first, *last)
    assert statuses == [200] * (labels + closed)
    # Of the items whose label still waited, those that were closed have been stored before all others.
    stored = [request.item.number for request in sink.submitted][turns.STORING_AT_ONCE :]
    assert set(stored[:closed]) == set(gone)
    assert len(sink.withdrawn) == closed
