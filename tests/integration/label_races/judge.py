"""The verdict on an item, from the forge's event log, the store of tasks, and what the item shows. Pure."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coding_agent_core.reporting.comment import State
from coding_agent_core.task.model import Phase, whole_second
from coding_agent_testbed.forge.eventlog import ForgeEvent

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
ASKING = {BOT, PROCESSING}
"""The labels of which an item has at least one while somebody wants its work."""
BOT_USER = "coding-agent-bot"


@dataclass(frozen=True)
class SeenRun:
    """A run of an item.

    Attributes:
        phase: as the store has it, or, where there is no store, the newest that the comment showed.
        shown_at: when the comment showed it first, or, where there is a store, the end of the second in which
            it was created.
        closed: whether it says that it ended because the item was closed.
        worked_until: when its work ended, by this machine's clock; `None`: not yet, or never begun.
        ended_at: when its end was shown. A label that is put on between the two may be answered by this run
            or by the next, because the agent reads the item for the last time somewhere in between.
    """

    name: str
    phase: Phase
    shown_at: datetime
    closed: bool = False
    worked_until: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Shown:
    """What an item shows at the end.

    Attributes:
        state: the hidden state of the bot's comment; `None`: there is no comment.
        comments: the number of the bot's comments.
    """

    open: bool
    labels: frozenset[str]
    state: State | None
    comments: int


def _taken_by_name(
    label: ForgeEvent, events: Sequence[ForgeEvent], reads: Callable[[], Sequence[datetime]]
) -> bool:
    """Whether the bot took the label off while it swapped the labels for an older one.

    Labels can only be removed by their name. docs/decisions/0005 names the moment between the two requests of
    a start as one in which a new label can be lost. On a busy machine that moment is longer than a second, so
    what counts then is that the bot has not read the item since the label was put on.
    """
    taken = [
        event.at
        for event in events
        if event.event == "unlabeled" and event.actor == BOT_USER and event.label == label.label
    ]
    return any(
        at <= label.at + timedelta(seconds=1) or not any(label.at <= read <= at for read in reads())
        for at in taken
        if at >= label.at
    )


def _taken_up(events: Sequence[ForgeEvent], runs: Sequence[SeenRun]) -> bool:
    """Whether a run took up the last label, or ended because of the closing that followed it.

    A run that was cancelled for an earlier removal of the label did neither. Without a store, the label's
    message is dropped if the item is closed when it is read. With a store, no task is created if the event of
    the closing comes before that of the label.
    """
    labeled = [one.at for one in events if one.event == "labeled" and one.actor != BOT_USER]
    return any(
        run.closed or (run.phase is not Phase.CANCELLED and bool(labeled) and run.shown_at >= labeled[-1])
        for run in runs
    )


def _too_many(worked: Sequence[SeenRun], events: Sequence[ForgeEvent]) -> bool:
    """Whether a label has more than one run, of those that worked after it.

    A run that a person withdrew by removing the label can end by itself before the event of the removal
    comes. A label that was applied again has a run of its own then.
    """
    removed = [
        one.at for one in events if one.event == "unlabeled" and one.actor != BOT_USER and one.label in ASKING
    ]
    # A store gives the second of a run's beginning.
    own = [run for run in worked if not removed or run.shown_at - timedelta(seconds=1) > removed[-1]]
    one_by_one = all(
        run.ended_at is not None and run.ended_at <= following.shown_at
        for run, following in itertools.pairwise(worked)
    )
    return len(own) > 1 or not one_by_one


def is_wanted(events: Sequence[ForgeEvent]) -> bool:
    """Whether the last thing that a person did with the item asks for work."""
    last = last_act(events)
    return last is not None and last.event == "labeled"


def last_act(events: Sequence[ForgeEvent]) -> ForgeEvent | None:
    """The last thing that a person did with the item's labels, or its closing."""
    acts = [one for one in events if one.actor != BOT_USER and (one.event == "closed" or one.label in ASKING)]
    return acts[-1] if acts else None


def problems(
    events: Sequence[ForgeEvent],
    reads: Callable[[], Sequence[datetime]],
    runs: Sequence[SeenRun],
    shown: Shown,
    *,
    free: bool,
    rounds_wanted: int,
) -> list[str]:
    """What is wrong with an item on which nothing happens any more; nothing: all is as it should be.

    Args:
        events: of the item, oldest first.
        reads: returns when the bot read the item or anything of it, by this machine's clock.
        free: as in the item's story.
        rounds_wanted: how many rounds of the story so far ended with the label on.
    """
    found = _agreement(runs, shown)
    active = [run.name for run in runs if not run.phase.terminal]
    done = [run for run in runs if run.phase is Phase.SUCCEEDED]
    other = [f"{run.name} {run.phase}" for run in runs if run.phase.terminal and run not in done]
    if active:
        found.append(f"still active: {', '.join(active)}")
    if strange := [text for text in other if not text.endswith(Phase.CANCELLED)]:
        found.append(f"neither done nor cancelled: {', '.join(strange)}")
    last = last_act(events)
    if last is None:
        return [*found, "nobody did anything"]
    if last.event == "labeled":
        worked = [run for run in done if run.worked_until is not None and run.worked_until >= last.at]
        # The forges' times are whole seconds: docs/decisions/0010 names the second in which a run ends as one
        # in which it cannot be told whether a label came before or after the last look at the item.
        second = whole_second(last.at)
        ended = [run.name for run in done if run.ended_at is not None and run.ended_at >= second]
        if not ended and _taken_by_name(last, events, reads):
            return found
        if _too_many(worked, events) or not ended:
            names = [run.name for run in worked]
            found.append(f"the label that stays: {names} worked after it, {ended} ended after it, not one")
        if shown.labels & {*ASKING, DONE} != {DONE}:
            found.append(f"done, and its labels are {sorted(shown.labels)}")
    elif shown.labels & (ASKING if last.event == "unlabeled" or _taken_up(events, runs) else {PROCESSING}):
        # A person's label stays on an item that was closed before a run took it up.
        found.append(f"{last.event} by a person, and its labels are {sorted(shown.labels)}")
    if not free and len(done) != rounds_wanted:
        found.append(f"{len(done)} runs are done, not {rounds_wanted}: {[run.name for run in done]}")
    if not free and last.event != "labeled":
        late = [event for event in events if event.event == "pushed" and event.at > last.at]
        if late:
            found.append(f"pushed {len(late)} times after the label went")
    return found


def _agreement(runs: Sequence[SeenRun], shown: Shown) -> list[str]:
    """Whether the comment agrees with the newest run."""
    if shown.comments > 1:
        return [f"the bot has written {shown.comments} comments"]
    if not runs:
        return []
    newest = runs[-1]
    if shown.state is None:
        return [f"{newest.name} is {newest.phase}, and there is no comment"]
    if shown.state.phase is not newest.phase:
        return [f"{newest.name} is {newest.phase}, and the comment says {shown.state.phase}"]
    if (newest.phase is Phase.SUCCEEDED) != (DONE in shown.labels) and not shown.labels & ASKING:
        return [f"the comment says {shown.state.phase}, and its labels are {sorted(shown.labels)}"]
    return []
