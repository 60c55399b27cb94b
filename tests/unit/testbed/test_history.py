"""What the lists of an item's events show while they are behind."""

from datetime import UTC, datetime

import pytest
from coding_agent_testbed.forge.history import History, HistorySettings
from coding_agent_testbed.forge.model import ItemEvent, User
from pydantic import ValidationError

ALICE = User(1, "alice", "Alice", "")
AT = datetime(2026, 11, 25, tzinfo=UTC)


def happened(number: int, at: float) -> ItemEvent:
    return ItemEvent(number, "labeled", ALICE, AT, recorded_at=at)


def shown(history: History, events: list[ItemEvent], *, first_page: bool = True) -> list[int]:
    return [event.id for event in history.shown(events, first_page=first_page)]


def test_by_default_a_list_shows_everything_at_once() -> None:
    assert shown(History(lambda: 0.0), [happened(1, 0.0), happened(2, 0.0)]) == [1, 2]


def test_an_event_is_shown_when_it_is_due_and_never_before_an_earlier_one() -> None:
    now = [0.0]
    history = History(lambda: now[0])
    history.settings = HistorySettings(late_seconds=(0, 10))
    events = [happened(number, number / 100) for number in range(50)]
    before: list[int] = []
    for tenth in range(110):
        now[0] = tenth / 10
        found = shown(history, events)
        assert found == list(range(len(found)))
        assert len(found) >= len(before)
        before = found
    assert len(before) == 50


def test_some_events_are_shown_only_by_the_second_read() -> None:
    history = History(lambda: 9.9)
    history.settings = HistorySettings(second_read=1)
    events = [happened(1, 0.0), happened(2, 0.0)]
    assert shown(history, events, first_page=False) == []
    assert shown(history, events) == []
    assert shown(history, events, first_page=False) == [1, 2], "another page of the first read"
    assert shown(history, events) == [1, 2]


def test_a_first_read_lacks_no_event_for_longer_than_ten_seconds() -> None:
    history = History(lambda: 10.0)
    history.settings = HistorySettings(second_read=1)
    assert shown(history, [happened(1, 0.0), happened(2, 0.1)]) == [1]
    history.settings = HistorySettings(second_read=1, late_seconds=(5, 5))
    assert shown(history, [happened(3, 0.0)]) == []


def test_the_same_seed_gives_an_event_the_same_delay() -> None:
    one, again, other = (
        HistorySettings(seed=seed, late_seconds=(0, 10), second_read=0.5) for seed in (1, 1, 2)
    )
    events = [happened(number, 0.0) for number in range(400)]
    assert [one.delay(event) for event in events] == [again.delay(event) for event in events]
    assert [one.delay(event) for event in events] != [other.delay(event) for event in events]
    assert 0.4 < sum(one.delay(event)[1] for event in events) / 400 < 0.6


@pytest.mark.parametrize("late", [(-1, 0), (2, 1), (0, 4000)])
def test_impossible_delays_are_refused(late: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="late_seconds"):
        HistorySettings(late_seconds=late)
