"""S7, S8, S9: health, metrics, and starting."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_receiver.server import create_app, run, serve
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.deliveries import (
    NOW,
    RecordingSink,
    encode,
    github_headers,
    github_issue,
    gitlab_issue,
    settings,
)
from tests.fixtures.receiver import receiving


def client(app: Any) -> Any:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://receiver")


async def test_health_tells_the_time_and_the_queue() -> None:
    sink = RecordingSink()
    async with client(create_app(settings(), sink, clock=lambda: NOW)) as http:
        response = await http.get("/health")
        assert response.status_code == 200
        assert response.json() == {
            "status": "healthy",
            "timestamp": "2026-11-25T12:00:00+00:00",
            "queue_connected": True,
        }
        assert datetime.fromisoformat(response.json()["timestamp"]).utcoffset() == timedelta(0)
        assert (await http.get("/readyz")).status_code == 200
        sink.down = True
        response = await http.get("/health")
        assert response.status_code == 503
        assert response.json()["status"] == "unhealthy"
        assert response.json()["queue_connected"] is False
        assert (await http.get("/readyz")).status_code == 503
        # A restart would not bring the queue back.
        assert (await http.get("/livez")).status_code == 200


class HangingSink(RecordingSink):
    async def connected(self) -> Any:
        await asyncio.Event().wait()
        return True


async def test_health_answers_though_the_queue_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coding_agent_receiver.server._HEALTH_TIMEOUT", 0.05)  # meant to expire
    async with client(create_app(settings(), HangingSink())) as http:
        assert (await http.get("/health")).json()["queue_connected"] is False


async def test_the_openapi_description_lists_the_webhooks() -> None:
    async with client(create_app(settings(), RecordingSink())) as http:
        described = (await http.get("/openapi.json")).json()["paths"]
        assert {path for path in described if path.startswith("/webhook")} == {
            f"/webhook/{platform}" for platform in Platform
        }
        for platform in Platform:
            [(method, operation)] = described[f"/webhook/{platform}"].items()
            assert method == "post"
            assert set(operation["requestBody"]["content"]) == {"application/json"}
            assert {"200", "401", "413", "503"} <= operation["responses"].keys()


async def test_webhooks_are_accepted_with_a_slash_at_the_end() -> None:
    sink, body = RecordingSink(), encode(github_issue())
    async with client(create_app(settings(), sink)) as http:
        sent = await http.post("/webhook/github/", content=body, headers=github_headers(body))
        assert (sent.status_code, len(sink.submitted)) == (200, 1)
        for path in ("/webhook", "/webhook/", "/webhook/github/x", "/webhook/elsewhere"):
            assert (await http.post(path, content=body, headers=github_headers(body))).status_code == 404


@pytest.fixture
async def busy() -> AsyncIterator[Any]:
    """A client of a receiver that answered one request of each result."""
    sink = RecordingSink()
    async with receiving(settings(), sink) as receiver:
        await receiver.github(github_issue())
        await receiver.github(github_issue())
        await receiver.github({}, "ping")
        await receiver.github({}, "made-up-by-the-sender")
        await receiver.github(github_issue(), **{"X-Hub-Signature-256": "wrong"})
        await receiver.github(b"nonsense")
        await receiver.gitlab(gitlab_issue())
        sink.down = True
        await receiver.gitlab(gitlab_issue())
        yield receiver.http


async def test_metrics_are_json_for_people(busy: httpx2.AsyncClient) -> None:
    body = (await busy.get("/metrics", headers={"Accept": "application/json, */*"})).json()
    assert (body["webhooks_received"], body["webhooks_failed"], body["tasks_queued"]) == (8, 3, 2)
    assert body["webhooks_by_event"]["github:other"] == 1


async def test_metrics_are_prometheus_text_for_scrapers(busy: httpx2.AsyncClient) -> None:
    response = await busy.get("/metrics", headers={"Accept": "text/plain"})
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    received = "coding_agent_webhooks_received_total"
    assert values[received, "github", "issues", "success"] == 1
    assert values[received, "duplicate", "github", "issues"] == 1
    assert values[received, "github", "ignored", "ping"] == 1
    assert values[received, "github", "issues", "unauthorized"] == 1
    assert values[received, "github", "issues", "unreadable"] == 1
    assert values[received, "Issue Hook", "gitlab", "unavailable"] == 1
    assert values["coding_agent_tasks_queued_total", "github"] == 1
    assert values["coding_agent_webhook_signature_failures_total", "github"] == 1
    assert values["coding_agent_queue_errors_total", "gitlab"] == 1
    assert values["coding_agent_webhook_response_seconds_count", "gitlab"] == 2


async def test_a_real_scraper_gets_openmetrics(busy: httpx2.AsyncClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5,*/*;q=0.1"
    response = await busy.get("/metrics", headers={"Accept": accept})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")


async def test_a_fresh_receiver_shows_what_is_alerted_on_at_zero() -> None:
    # `increase()` does not see a series that starts at 1: the first errors of a pod would raise no alert.
    async with client(create_app(settings(), RecordingSink())) as http:
        response = await http.get("/metrics", headers={"Accept": "text/plain"})
    values = {
        (sample.name, sample.labels.get("platform")): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    for name in ("queue_errors", "webhook_signature_failures", "webhooks_failed", "tasks_queued"):
        for platform in ("github", "gitlab"):
            assert values[f"coding_agent_{name}_total", platform] == 0


def test_a_server_without_any_secret_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match="GITHUB_WEBHOOK_SECRET"):
        run(Settings(), RecordingSink())


def test_a_forge_without_a_secret_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    create_app(settings(gitlab={"token": ""}), RecordingSink())
    assert "GitLab webhooks are all answered 401" in caplog.text
    assert "GitHub webhooks" not in caplog.text


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with receiving(settings(), RecordingSink()) as receiver:
        taken = settings(server={"host": "127.0.0.1", "port": receiver.port})
        with pytest.raises(
            SettingsError, match=rf"cannot listen on 127\.0\.0\.1:{receiver.port}: Address already"
        ):
            await serve(taken, RecordingSink(), stop=asyncio.Event())
