"""What is looked at next: ends first, bursts coalesced, one look at an item at a time."""

from __future__ import annotations

from coding_agent_operator.reporter.backlog import Backlog, Rank


def taken(backlog: Backlog, now: float) -> list[str]:
    """Everything that can be taken, in order."""
    names = []
    while (found := backlog.take(now)) is not None:
        names.append(found[0])
    return names


def test_ends_come_first_then_who_waits_longest() -> None:
    backlog = Backlog()
    backlog.add("check", Rank.CHECK, 0, item="1")
    backlog.add("late", Rank.CHANGE, 2, item="2")
    backlog.add("early", Rank.CHANGE, 1, item="3")
    backlog.add("end", Rank.END, 3, item="4")
    assert taken(backlog, 3) == ["end", "early", "late", "check"]


def test_a_burst_of_changes_of_one_task_is_one_look_at_the_best_rank() -> None:
    backlog = Backlog()
    for rank in (Rank.CHANGE, Rank.POSITION, Rank.END, Rank.CHANGE):
        backlog.add("a", rank, 0, item="1")
    assert backlog.take(0) == ("a", Rank.END)
    assert backlog.take(0) is None


def test_a_look_that_is_due_later_is_brought_forward_and_never_put_off() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.CHECK, 0, item="1", delay=300)
    assert backlog.take(0) is None
    assert backlog.next_due(0) == 300
    backlog.add("a", Rank.END, 10, item="1")
    backlog.add("a", Rank.CHECK, 10, item="1", delay=300)
    assert backlog.take(10) == ("a", Rank.END)


def test_what_happens_during_a_look_is_looked_at_after_it() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.CHANGE, 0, item="1")
    assert backlog.take(0) == ("a", Rank.CHANGE)
    backlog.add("a", Rank.END, 1, item="1")
    assert backlog.take(1) is None
    assert backlog.next_due(1) is None
    backlog.done("a")
    assert backlog.take(1) == ("a", Rank.END)


def test_two_runs_of_an_item_are_never_looked_at_together() -> None:
    backlog = Backlog()
    backlog.add("run-1", Rank.END, 0, item="same")
    backlog.add("run-2", Rank.CHANGE, 0, item="same")
    backlog.add("other", Rank.CHANGE, 0, item="other")
    assert taken(backlog, 0) == ["run-1", "other"]
    backlog.done("run-1")
    assert taken(backlog, 0) == ["run-2"]


def test_a_failed_look_is_repeated_and_counts_from_when_it_was_first_wanted() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.END, 5, item="1")
    backlog.take(5)
    assert backlog.pending(6) == [("a", 1)], "what is looked at is not shown yet"
    backlog.again("a", 7, delay=10)
    backlog.done("a")
    assert backlog.take(16) is None
    assert backlog.pending(16) == [("a", 11)]
    assert backlog.take(17) == ("a", Rank.END)


def test_checks_and_moved_positions_are_not_pending() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.CHECK, 0, item="1")
    backlog.add("b", Rank.POSITION, 0, item="2")
    assert backlog.pending(5) == []


def test_what_is_forgotten_is_not_taken() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.END, 0, item="1")
    backlog.forget("a")
    assert backlog.take(0) is None
