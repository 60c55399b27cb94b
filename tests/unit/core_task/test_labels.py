"""What people's labels ask for, by the order of events alone."""

from datetime import UTC, datetime

import pytest
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position, furthest
from coding_agent_core.task.labels import Decision, Run, decide
from hypothesis import given
from hypothesis import strategies as st

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
TRIGGER, PROCESSING, OWN = "coding agent", "coding agent processing", "bot"
ON = {
    "on": ItemAction.LABELED,
    "off": ItemAction.UNLABELED,
    "closed": ItemAction.CLOSED,
    "reopened": ItemAction.REOPENED,
}


def history(*acts: str, shows: str = "", current: bool = True, first: int = 1) -> ItemHistory:
    """Return a history of acts such as `on`, `off processing`, `bot off` and `closed`, all in one second.

    Args:
        shows: a label that the item shows although no event explains it.
    """
    events, present, is_open = [], {shows} - {""}, True
    for number, act in enumerate(acts, first):
        words = act.split()
        user = words.pop(0) if words[0] == OWN else "alice"
        action = ON[words[0]]
        label = "" if action in (ItemAction.CLOSED, ItemAction.REOPENED) else TRIGGER
        label = PROCESSING if words[-1] == "processing" else label
        events.append(ItemEvent(number, action, label, user, AT))
        match action:
            case ItemAction.LABELED:
                present.add(label)
            case ItemAction.UNLABELED:
                present.discard(label)
            case _:
                is_open = action is ItemAction.REOPENED
    active = frozenset({TRIGGER, PROCESSING})
    shown = frozenset(present)
    return ItemHistory(events, shown, is_open, frozenset({TRIGGER}), active, OWN, current=current)


def run(
    number: int = 1,
    answered: int | None = None,
    *,
    ended: bool = False,
    cancelled: bool = False,
    by_label: bool = True,
) -> Run:
    position = None if answered is None else Position((answered,))
    return Run(f"r{number}", number, position, by_label=by_label, ended=ended, cancelled=cancelled)


def told(decision: Decision) -> str:
    """Return a decision in a few words."""
    said = [f"withdraw {name} at {position}" for name, position in decision.withdraw]
    said += [f"{name} answers {position}" for name, position in decision.confirm]
    said += [f"{decision.duplicate} is a duplicate"] if decision.duplicate else []
    said += [f"create for {decision.create.id}"] if decision.create else []
    return ", ".join(said + ["unsure"] * decision.unsure) or "nothing"


CASES: list[tuple[ItemHistory, list[Run], int | None, str]] = [
    # Nobody has looked at the run that a webhook created.
    (history("on"), [run()], None, "r1 answers 1"),
    (history("on", "off"), [run()], None, "withdraw r1 at 2"),
    (history("on", "off", current=False), [run()], None, "unsure"),
    (history("on", "closed", current=False), [run()], None, "withdraw r1 at 2"),
    (history("on", "off", "on"), [run()], None, "r1 answers 3"),
    (history(current=False), [run()], None, "unsure"),
    (history(shows=TRIGGER), [run()], None, "r1 answers 0"),
    (history("on"), [run()], 1, "withdraw r1 at 1"),
    # Two webhooks came: the second took a name that was free.
    (history("on"), [run(1), run(2, 1)], None, "r1 is a duplicate"),
    (history("on"), [run(1, 1), run(2)], None, "r2 is a duplicate"),
    # A run works.
    (history("on", "bot on processing", "bot off"), [run(1, 1)], None, "nothing"),
    (history("on", "bot on processing", "bot off", "on"), [run(1, 1)], None, "r1 answers 4"),
    (history("on", "bot on processing", "bot off", "off processing"), [run(1, 1)], None, "withdraw r1 at 4"),
    (history("on", "bot on processing", "off processing", "bot off"), [run(1, 1)], None, "withdraw r1 at 3"),
    (history("on", "bot on processing", "off processing"), [run(1, 1)], None, "withdraw r1 at 3"),
    (history("on", "bot on processing", "off", "on", "off processing"), [run(1, 1)], None, "r1 answers 5"),
    (history("on", "off", "on"), [run(1, 1)], None, "withdraw r1 at 2"),
    (history("on", "closed", "reopened"), [run(1, 1)], None, "withdraw r1 at 2"),
    (
        history("off processing", first=2, shows=PROCESSING),
        [run(1, 1, by_label=False)],
        None,
        "withdraw r1 at 2",
    ),
    # The run has ended, or is being stopped.
    (history("on", "bot off"), [run(1, 1, ended=True)], None, "nothing"),
    (history("on", "bot off", "on"), [run(1, 2, ended=True)], None, "create for 3"),
    (history("on", "bot off", "on", "bot off"), [run(1, 2, ended=True)], None, "create for 3"),
    (history("on", "bot off", "on", "off"), [run(1, 2, ended=True)], None, "nothing"),
    (history("on", "bot off", "on", "closed"), [run(1, 2, ended=True)], None, "nothing"),
    (history("on", "off", "on"), [run(1, 2, cancelled=True)], None, "nothing"),
    (history("on", "off", "on"), [run(1, 2, cancelled=True, ended=True)], None, "create for 3"),
    (history("bot on"), [run(1, 0, ended=True)], None, "nothing"),
    (history("on", "bot off", "on"), [run(1, 1, ended=True)], 3, "nothing"),
]


@pytest.mark.parametrize(("seen", "runs", "remembered", "expected"), CASES)
def test_what_the_events_of_an_item_demand(
    seen: ItemHistory, runs: list[Run], remembered: int | None, expected: str
) -> None:
    known = None if remembered is None else Position((remembered,))
    assert told(decide(seen, runs, known)).replace("unsure, ", "") == expected


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=3).map(tuple))
def test_a_position_is_read_as_it_was_written(ids: tuple[int, ...]) -> None:
    assert Position.parse(str(Position(ids))) == Position(ids)


@pytest.mark.parametrize("text", [None, "", "a", "1..2", "-1", "1" * 19, "٣"])
def test_anything_else_is_no_position(text: str | None) -> None:
    assert Position.parse(text) is None


def test_the_furthest_position_covers_each_list_by_itself() -> None:
    assert furthest([Position((5,)), None, Position((3, 7))]) == Position((5, 7))
    assert furthest([None]) is None
