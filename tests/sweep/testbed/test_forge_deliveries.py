"""Deliveries that are late, doubled, reordered or dropped, and the payloads of a label that went."""

import socket
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.delivery_settings import DeliverySettings
from coding_agent_testbed.forge.errors import DeliveryError

from tests.fixtures.forge import REPOSITORY, admin, client, sample_seed
from tests.fixtures.hook_receiver import HookReceiver, Received

ID = {"github": "x-github-delivery", "gitlab": "idempotency-key"}


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Both forges."""
    with ForgeServer(request.param, sample_seed(), tmp_path / "forge") as forge:
        yield forge


def ids(forge: ForgeServer, received: list[Received]) -> list[str]:
    return [entry.headers[ID[forge.flavour]] for entry in received]


def test_the_same_seed_gives_the_same_event_the_same_fate_and_another_seed_another() -> None:
    shares = {"late_seconds": (1, 3), "doubled": 0.5, "other_ids": 0.5, "reordered": 0.3, "dropped": 0.2}
    one, again, other = (DeliverySettings(seed=seed, **shares) for seed in (1, 1, 2))  # type: ignore[arg-type]
    names = [f"event {number}" for number in range(400)]

    fates = [one.copies(name) for name in names]

    assert fates == [again.copies(name) for name in reversed(names)][::-1]
    assert fates != [other.copies(name) for name in names]
    copies = [copy for fate in fates for copy in fate]
    assert all(1 <= copy.late <= 3 for copy in copies)
    assert 500 < len(copies) < 700
    assert 0.1 < sum(copy.dropped for copy in copies) / len(copies) < 0.3
    assert 0.2 < sum(copy.held is not None for copy in copies) / len(copies) < 0.4


@pytest.mark.parametrize("other_ids", [0, 1])
def test_an_event_comes_twice_under_one_id_or_two(
    forge: ForgeServer, hook_receiver: HookReceiver, other_ids: int
) -> None:
    forge.add_hook(REPOSITORY, hook_receiver.url)
    with admin(forge) as sandbox:
        settings = {"doubled": 1, "other_ids": other_ids}
        sandbox.put("/delivery-settings", json=settings).raise_for_status()

    forge.add_label(REPOSITORY, 1, "coding agent")

    received = hook_receiver.wait_for_count(2)
    assert len(set(ids(forge, received))) == 1 + other_ids
    assert received[0].body == received[1].body


def test_a_delivery_is_overtaken_by_the_next_one_about_its_item(
    forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    forge.add_hook(REPOSITORY, hook_receiver.url)
    other = forge.open_issue(REPOSITORY, "Another")
    hook_receiver.wait_for_count(1)
    forge.set_deliveries(reordered=1, held_seconds=60)
    for label in ("first", "second"):
        forge.add_label(REPOSITORY, 1, label)
        forge.add_label(REPOSITORY, other, label)

    received = hook_receiver.wait_for_count(5)[1:]

    for number in (1, other):
        bodies = [entry.body for entry in received if number in numbers(entry)]
        assert ["second" in body.decode() for body in bodies] == [True, False]
    forge.set_deliveries(reordered=1, held_seconds=0.1)
    forge.add_label(REPOSITORY, 1, "third")
    assert b"third" in hook_receiver.wait_for_count(6)[-1].body, "not held for ever"


def test_a_receiver_has_a_minute_unless_a_test_says_otherwise(forge: ForgeServer) -> None:
    assert DeliverySettings().timeout_seconds == 60
    forge.set_deliveries(timeout_seconds=0.1)  # meant to expire
    with socket.create_server(("127.0.0.1", 0)) as silent:
        forge.add_hook(REPOSITORY, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DeliveryError, match=r"timed out \(504\)"), forge.delivering():
            forge.add_label(REPOSITORY, 1, "coding agent")


def test_a_webhook_that_is_refused_fails_at_once_with_the_answer(
    forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    forge.add_hook(REPOSITORY, hook_receiver.url)
    with forge.delivering():
        forge.add_label(REPOSITORY, 1, "coding agent")
    hook_receiver.status = 503
    with pytest.raises(DeliveryError, match=r": 503 \(503\)\nok"), forge.delivering():
        forge.remove_label(REPOSITORY, 1, "coding agent")


def numbers(received: Received) -> list[int]:
    """The number of the item that a payload is about."""
    payload = received.payload
    return [payload["issue"]["number"] if "issue" in payload else payload["object_attributes"]["iid"]]


BEHIND = -7200.0
ITEM = {"github": f"/repos/{REPOSITORY}/issues/1", "gitlab": "/projects/acme%2Fpricing/issues/1"}


def times(value: Any) -> list[datetime]:
    """Every time in an answer or a payload."""
    if isinstance(value, dict):
        return [found for entry in value.values() for found in times(entry)]
    if isinstance(value, list):
        return [found for entry in value for found in times(entry)]
    try:
        found = datetime.fromisoformat(str(value).replace(" UTC", "Z"))
    except ValueError:
        return []
    return [found] if found.tzinfo else []


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_every_time_that_the_forge_shows_comes_from_its_own_clock(
    flavour: str, tmp_path: Path, hook_receiver: HookReceiver
) -> None:
    with ForgeServer(flavour, sample_seed(), tmp_path / "forge", clock_ahead=BEHIND) as forge:
        forge.add_hook(REPOSITORY, hook_receiver.url)
        forge.add_label(REPOSITORY, 1, "coding agent")
        forge.comment(REPOSITORY, 1, "Please hurry")
        told = [entry.payload for entry in hook_receiver.wait_for_count(2)]
        history = "timeline" if flavour == "github" else "resource_label_events"
        comments = "comments" if flavour == "github" else "notes"
        with client(forge) as api:
            answers = [api.get(ITEM[flavour] + path) for path in ("", f"/{history}", f"/{comments}")]

    now = datetime.now(UTC)
    shown = times([told, *(answer.json() for answer in answers)])
    shown += [parsedate_to_datetime(answer.headers["date"]) for answer in answers]
    assert len(shown) > 10
    late = now + timedelta(seconds=BEHIND)
    assert all(late - timedelta(seconds=120) < at <= late for at in shown)
    if flavour == "github":
        assert all(at.microsecond == 0 for at in shown)
        reset = int(answers[0].headers["x-ratelimit-reset"])
        assert reset < now.timestamp() - 3000
