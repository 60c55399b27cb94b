"""B4: which missed deliveries are sent again, and which not."""

from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.values import ItemState, LabelEvent
from coding_agent_core.settings.load import load_settings
from coding_agent_forges.github.redelivery import (
    LIMIT,
    Hook,
    HookDelivery,
    is_withdrawn,
    missed,
    ours,
    turns,
)

from tests.fixtures.deliveries import NOW

EVENTS = {"issues"}
URL = "https://hooks.example.com/webhook/github"


def delivery(minute: int, guid: str, status: int = 502, event: str = "issues") -> HookDelivery:
    """Of a minute of the log, which is its id too."""
    return HookDelivery(minute, guid, NOW + timedelta(minutes=minute), status, event)


def chosen(*log: HookDelivery) -> tuple[list[int], list[int]]:
    """Ids of what is sent again, and of what is tried; the forge gives the log newest first."""
    found = missed(reversed(log), EVENTS)
    return [entry.id for entry in found.again], [probe.id for probe in found.probes]


def test_as_long_as_nothing_was_taken_since_events_are_probes_the_least_tried_first() -> None:
    log = [delivery(1, "a", 200), delivery(2, "b"), delivery(3, "c"), delivery(4, "b"), delivery(5, "d", 504)]
    assert chosen(*log) == ([], [3, 5, 4])


def test_once_another_delivery_was_taken_all_before_it_are_sent_again_in_the_order_of_the_events() -> None:
    log = [delivery(1, "b"), delivery(2, "c", 503), delivery(3, "b"), delivery(4, "ping", 200, "ping")]
    assert chosen(*log) == ([3, 2], []), "b came before c, whenever it was tried last"


def test_a_duplicate_that_failed_after_a_success_is_not_missed() -> None:
    log = [delivery(1, "a", 200), delivery(2, "a", 502), delivery(3, "b", 200)]
    assert chosen(*log) == ([], [])


def test_events_that_mean_nothing_to_us_are_left_alone() -> None:
    assert chosen(delivery(1, "a", event="push"), delivery(2, "b", 200)) == ([], [])


@pytest.mark.parametrize("status", [400, 502])
def test_an_event_that_fails_while_others_are_taken_is_given_up_after_five_more(status: int) -> None:
    log = [delivery(1, "a", status), delivery(2, "b", 200), *(delivery(n, "a", status) for n in range(3, 7))]
    up = delivery(9, "c", 200)
    assert chosen(*log, up) == ([6], [])
    assert chosen(*log, delivery(7, "a", status), up) == ([], [])


def test_however_often_it_was_tried_while_nothing_was_taken_it_is_not_given_up() -> None:
    log = [delivery(0, "b", 200), *(delivery(minute, "a") for minute in range(1, 40))]
    assert chosen(*log) == ([], [39])
    assert chosen(*log, delivery(40, "c", 200)) == ([39], [])


def test_a_success_of_the_same_second_counts_as_later() -> None:
    """Else of many events that failed within the second of the success, each poll would send one."""
    taken = HookDelivery(3, "c", delivery(2, "b").at, 200, "ping")
    assert chosen(delivery(1, "a"), delivery(2, "b"), taken) == ([1, 2], [])


def test_of_too_many_each_has_its_turn_and_they_keep_their_order() -> None:
    log = [delivery(minute, str(minute)) for minute in range(4 * LIMIT)]
    assert turns(log[:LIMIT], Random(0)) == tuple(log[:LIMIT])
    seen: set[int] = set()
    for poll in range(40):
        now = [turn.id for turn in turns(log, Random(poll))]
        assert len(now) == LIMIT
        assert now == sorted(now)
        seen.update(now)
    assert len(seen) == len(log), "none is held up by others"


BOT = "coding agent"
ALICE_ON, ALICE_OFF, BOT_OFF = (
    LabelEvent(NOW, "alice", BOT, added=True),
    LabelEvent(NOW, "alice", BOT, added=False),
    LabelEvent(NOW, "Coding-Agent-Bot", BOT, added=False),
)


@pytest.mark.parametrize(
    ("labels", "open_", "history", "expected"),
    [
        ({BOT}, False, [], True),
        (set(), True, [ALICE_OFF, ALICE_ON], True),
        (set(), True, [BOT_OFF, ALICE_ON], False),  # with its task, perhaps of an earlier application
        (set(), True, [ALICE_ON, ALICE_OFF], False),  # it came back after the item was read
        (set(), True, [], True),
    ],
)
def test_a_missed_label_is_withdrawn_only_by_a_person(
    labels: set[str], open_: bool, history: list[LabelEvent], expected: bool
) -> None:
    item = ItemState(frozenset(labels), open_)
    assert is_withdrawn(item, history, {BOT}, "coding-agent-bot") is expected


def test_only_webhooks_to_our_address_are_ours() -> None:
    mine, other = Hook("/1", URL, "one"), Hook("/2", "https://other.example.com/webhook/github", "two")
    assert ours([mine, other], URL + "/") == [mine]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{repositories: [acme/pricing]}", "webhook_url is missing"),
        ("{repositories: [acme], webhook_url: 'https://x.example'}", "github.redelivery.repositories"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, section: str, said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"github:\n  redelivery: {section}\n")
    with pytest.raises(SettingsError, match=said):
        load_settings(file)
