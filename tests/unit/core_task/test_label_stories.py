"""Random stories about one item's labels, played against `decide`, one request at a time.

People label, unlabel, close and reopen, and ask for a retry by command. Webhooks are lost, doubled, late and
in any order. The history lags behind them, and shows some events only to the second read. The reporter is
killed after any request, attempts end at any time, and ended tasks are swept. Our own account takes a label
off while a person applies it. GitLab's two lists are numbered and lag separately; the clock of the other
forges is set back and forth.

`judge` says what is wrong with the end of a story, from what really happened and from the ends of runs alone.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from coding_agent_core.task import labels
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position, furthest
from coding_agent_core.task.labels import Decision
from coding_agent_forges.rest.item_events import agrees, merged

_T = TypeVar("_T")
TRIGGER, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
ACTIVE = frozenset({TRIGGER, PROCESSING})
OWN, PERSON = "bot", "alice"
START = datetime(2026, 11, 25, 12, tzinfo=UTC)
LAG = 10.0
"""The most seconds by which a list of events is behind."""
WAITS = (2.0, 12.0, 72.0)
"""Seconds after a read that was not sure at which the history is read again; the last is believed."""
GRACE = 60.0
"""Seconds after the end is shown at which the history is read once more; then the run may be deleted."""


@dataclass
class Happened:
    """Something that happened, in the true order.

    Attributes:
        visible: the time from which the list of events shows it.
        second_read: whether the first read of the list lacks it for `LAG` seconds more.
    """

    event: ItemEvent
    visible: float
    second_read: bool


@dataclass
class StoredRun:
    """A stored task of the item.

    Attributes:
        confirmed: the first position that somebody found it to answer.
    """

    number: int
    answered: Position | None
    by_label: bool = True
    is_round: bool = False
    state: str = "queued"  # queued, running, done, cancelled
    cancelled: bool = False
    duplicate: bool = False
    stopped: tuple[int, int] | None = None
    """How much had happened before the read for which it was withdrawn, and when that was recorded."""
    ended_order: int = 0
    shown_at: float | None = None
    finished: bool = False
    version: int = 0
    confirmed: Position | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("done", "cancelled")

    def ended_first(self, other: StoredRun) -> bool:
        return self.ended_order < other.ended_order

    def plain(self) -> labels.Run:
        return labels.Run(
            str(self.number),
            self.number,
            self.answered,
            by_label=self.by_label,
            is_round=self.is_round,
            ended=self.ended,
            cancelled=self.cancelled,
        )

    def patch(self, answered: Position | None, *, cancelled: bool = False) -> None:
        if self.answered is None and not self.ended:
            self.confirmed = furthest([self.confirmed, answered])
        self.answered, self.version = answered, self.version + 1
        self.cancelled = self.cancelled or cancelled


@dataclass
class World:
    """The forge and the store."""

    chance: random.Random
    two_lists: bool
    lag: float
    second_reads: float
    jumps: bool
    now: float = 0.0
    ahead: float = 0.0
    truth: list[Happened] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    open: bool = True
    runs: dict[int, StoredRun] = field(default_factory=dict)
    all_runs: list[StoredRun] = field(default_factory=list)
    remembered: Position | None = None
    webhooks: list[ItemEvent | str] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    reported: ItemEvent | None = None
    unsure_since: float | None = None
    ends: int = 0
    log: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.log.append(f"{self.now:6.1f} {text}")

    # The forge

    def happen(self, action: ItemAction, label: str, user: str) -> None:
        self.now += 0.001  # two requests are not worked on in the same millisecond
        series = int(self.two_lists and not label)
        number = 1 + sum(one.event.series == series for one in self.truth) + (1000 if series == 0 else 0)
        at = START + timedelta(seconds=self.now + self.ahead)
        if not self.two_lists:
            at = at.replace(microsecond=0)
        event = ItemEvent(number, action, label, user, at, series)
        visible = self.now + self.chance.uniform(0, self.lag)
        self.truth.append(Happened(event, visible, self.chance.random() < self.second_reads))
        self.say(f"{number}/{series} {user} {action} {label}, visible at {visible:.1f}")
        for _ in range(self.chance.choice([0, 1, 1, 2])):  # lost, once, twice
            self.webhooks.insert(self.chance.randint(0, len(self.webhooks)), event)

    def set(self, label: str, user: str, *, on: bool) -> None:
        if (label in self.labels) == on:
            return
        (self.labels.add if on else self.labels.discard)(label)
        if label in ACTIVE:
            self.happen(ItemAction.LABELED if on else ItemAction.UNLABELED, label, user)

    def turn(self) -> None:
        self.open = not self.open
        self.happen(ItemAction.REOPENED if self.open else ItemAction.CLOSED, "", PERSON)

    def list_events(self, series: int) -> tuple[ItemEvent, ...]:
        shown: list[ItemEvent] = []
        behind = False
        for one in self.truth:
            if one.event.series != series:
                continue
            if self.now < one.visible:
                break
            if one.second_read:
                one.second_read, behind = False, self.now < one.visible + LAG
            if not behind:
                shown.append(one.event)
        return tuple(shown)

    # What the forge's client does with it, as `Forge.item_history`

    def read_events(self, after: Position | None) -> Generator[None, None, tuple[ItemEvent, ...]]:
        found = self.list_events(0)
        if not self.two_lists:
            return found
        while True:
            yield
            states = self.list_events(1)
            before = found
            if any(after is None or not after.covers(event) for event in states):
                yield
                found = self.list_events(0)
            if found == before:
                return tuple(merged(found, states))

    def item_history(self, after: Position | None) -> Generator[None, None, ItemHistory]:
        events: tuple[ItemEvent, ...] | None = None
        for _ in range(3):
            present, is_open, before = frozenset(self.labels), self.open, events
            yield
            events = yield from self.read_events(after)
            history = ItemHistory(events, present, is_open, frozenset({TRIGGER}), ACTIVE, OWN, current=False)
            if events == before or agrees(history):
                break
            yield
        return history

    def is_behind(self, history: ItemHistory) -> bool:
        """Whether the history does not show an event as new as what a webhook has reported."""
        newest = max((event.at for event in history.events), default=None)
        return self.reported is not None and (newest is None or newest < self.reported.at)

    # The programs

    def ask(self, event: ItemEvent | None = None) -> None:
        """Ask for a look. With a new event, the history is believed only after it had the time to show it."""
        if event is not None and (self.reported is None or self.reported.at < event.at):
            self.reported = event
        self.unsure_since = None
        self.looks.append(self.now)
        if self.runs:  # the request is stored on a run, which is not deleted before somebody has looked
            newest = self.runs[max(self.runs)]
            newest.finished, newest.version = False, newest.version + 1

    def create(
        self, number: int, answered: Position | None, *, by_label: bool = True, is_round: bool = False
    ) -> bool:
        if number in self.runs:
            return False
        run = StoredRun(number, answered, by_label, is_round, confirmed=answered)
        self.runs[number] = run
        self.all_runs.append(run)
        kind = "round" if is_round else "run" if by_label else "hand-made run"
        self.say(f"{kind} {number} created, answers {answered}")
        return True

    def receive(self) -> None:
        """A webhook creates run 1 of an item without a task; otherwise it asks for a look."""
        event = self.webhooks.pop(0)
        if isinstance(event, str):
            self.command()
            return
        if event.action is ItemAction.LABELED and event.label == TRIGGER and event.user != OWN:
            self.create(1, None)
        self.ask(event)

    def command(self) -> None:
        """A person's `/retry` needs a run that ended, and an open item."""
        if self.open and self.runs and all(run.ended for run in self.runs.values()):
            self.create(max(self.runs) + 1, None, by_label=False)
            self.ask()

    def make(self) -> None:
        """Somebody makes a run by hand, or a round is due."""
        if not self.open or any(not run.ended for run in self.runs.values()):
            return
        is_round = bool(self.runs) and self.chance.random() < 0.5
        self.create(max([0, *self.runs]) + 1, None, by_label=False, is_round=is_round)
        self.ask()

    def poll(self) -> None:
        if self.open and TRIGGER in self.labels:
            self.create(1, None)
            self.ask()

    def operate(self) -> None:
        """Start a run: at once if it is the item's only one, otherwise when somebody has looked."""
        for run in self.runs.values():
            if run.state == "queued" and run.cancelled:
                run.state = "cancelled"
            elif run.state == "queued" and not any(r.state == "running" for r in self.runs.values()):
                earlier = [r for r in self.runs.values() if r is not run]
                confirmed = run.answered is not None or not earlier
                if confirmed and all(r.ended for r in earlier if r.number < run.number):
                    run.state = "running"
                    self.say(f"run {run.number} starts")

    def attempt(self, run: StoredRun) -> Iterator[None]:
        """Look at the start, work, look at the end: the last look says what was answered."""
        decision = Decision(Position())
        confirmed: Position | None = None
        for moment in ("start", "work", "end"):
            while True:
                yield
                if run.cancelled:
                    run.state = "cancelled"
                    return
                others = [r.plain() for r in self.runs.values() if r is not run and r.ended]
                others.append(replace(run.plain(), answered=furthest([run.answered, confirmed])))
                after, happened = labels.answered_before(others, self.remembered), len(self.truth)
                history = yield from self.item_history(after)
                decision = labels.decide(history, others, self.remembered)
                yield
                withdrawn = dict(decision.withdraw).get(str(run.number))
                if withdrawn is not None:
                    if not run.cancelled:
                        run.patch(withdrawn)
                        self.stop(run, happened)
                    run.state = "cancelled"
                    self.say(f"run {run.number} saw that it is withdrawn at {run.answered}")
                    return
                if (seen := dict(decision.confirm).get(str(run.number))) is not None:
                    run.confirmed = run.confirmed if confirmed else furthest([run.confirmed, seen])
                    confirmed = furthest([confirmed, seen])
                if moment != "end" or not decision.unsure:
                    break
        if run.cancelled:  # the withdrawal says what was answered, and not the work
            run.state = "cancelled"
            return
        run.state, self.ends = "done", self.ends + 1
        run.ended_order = self.ends
        answered = furthest([run.answered, decision.position])
        run.patch(run.answered if run.is_round else answered)
        self.say(f"run {run.number} done, answers {run.answered}")

    def report(self) -> Iterator[None]:
        """One look; it may be killed after any request."""
        runs = [run for run in self.all_runs if self.runs.get(run.number) is run]
        plain, reported = [run.plain() for run in runs], self.reported
        if not runs:
            return
        seen = self.versions()
        yield
        happened = len(self.truth)
        history = yield from self.item_history(labels.answered_before(plain, self.remembered))
        yield
        if self.versions() != seen:
            self.looks.append(self.now)
            return
        unsure_for = self.now - (self.now if self.unsure_since is None else self.unsure_since)
        history = replace(history, current=unsure_for >= WAITS[-1])
        decision = labels.decide(history, plain, self.remembered)
        unsure = not history.current and (decision.unsure or self.is_behind(history))
        if not unsure:
            self.unsure_since = None
            self.reported = None if self.reported is reported else self.reported
        elif self.unsure_since is None:
            self.unsure_since = self.now
        if self.apply(decision, happened):
            self.looks.append(self.now)
            return
        if self.unsure_since is not None:
            self.looks.append(
                self.unsure_since + next((wait for wait in WAITS if wait > unsure_for), WAITS[-1])
            )
        yield from self.show(runs, seen, history, unsure=unsure)

    def versions(self) -> dict[int, tuple[object, ...]]:
        """Return what changes with every change of a stored run."""
        return {n: (id(run), run.version, run.state, run.cancelled) for n, run in self.runs.items()}

    def stop(self, run: StoredRun, happened: int) -> None:
        """Remember how much had happened before the read for which a run was withdrawn, for the judge."""
        self.ends += 1
        run.ended_order, run.stopped = self.ends, (happened, len(self.truth))

    def apply(self, decision: Decision, happened: int) -> bool:
        """Write what was decided; return whether anything was."""
        if decision.duplicate is not None:
            run = self.runs[int(decision.duplicate)]
            run.patch(run.answered, cancelled=True)
            run.duplicate = True
            self.say(f"run {run.number} is a duplicate")
            return True
        for name, position in decision.withdraw:
            self.runs[int(name)].patch(position, cancelled=True)
            self.stop(self.runs[int(name)], happened)
            self.say(f"run {name} withdrawn at {position}")
        changed = bool(decision.withdraw)
        for name, position in decision.confirm:
            run = self.runs[int(name)]
            answered = furthest([run.answered, position])
            changed = changed or answered != run.answered
            if answered != run.answered:
                run.patch(answered)
                self.say(f"run {name} confirmed at {answered}")
        if decision.create is not None:
            changed = self.create(max([0, *self.runs]) + 1, decision.position) or changed
        return changed

    def show(
        self,
        runs: list[StoredRun],
        seen: dict[int, tuple[object, ...]],
        history: ItemHistory,
        *,
        unsure: bool,
    ) -> Iterator[None]:
        """Write the labels and what the comment remembers."""
        running = next((run for run in runs if not run.ended and not run.cancelled), None)
        if running is not None:
            may_be_removed = unsure and running.by_label and not history.present & ACTIVE
            if running.state == "running" and not may_be_removed:
                yield
                self.set(PROCESSING, OWN, on=True)
                yield
                if not running.is_round:
                    self.set(TRIGGER, OWN, on=False)
            return
        if not all(run.ended for run in runs):
            return  # one is being stopped
        yield
        self.remembered = furthest([self.remembered, *(run.answered for run in runs if not run.is_round)])
        yield
        newest = runs[-1]
        if newest.shown_at is None:  # the end is shown once; afterwards only people change the labels
            if newest.state == "done":
                self.set(DONE, OWN, on=True)
                yield
            for label in (PROCESSING, TRIGGER):
                if label in history.present and (label != TRIGGER or not (unsure or newest.is_round)):
                    self.set(label, OWN, on=False)
                yield
            if not unsure:
                newest.shown_at = self.now
                self.looks.append(self.now + GRACE)
        elif not unsure and self.now >= newest.shown_at + GRACE and self.versions() == seen:
            for run in runs:
                run.finished = True

    def sweep(self) -> None:
        for number in [number for number, run in self.runs.items() if run.finished]:
            answered = self.runs[number].answered
            if furthest([self.remembered, answered]) == self.remembered:
                del self.runs[number]

    def person(self) -> None:
        what = self.chance.random()
        if self.jumps and self.chance.random() < 0.2:
            self.ahead += self.chance.choice([-3600.0, -1.0, 1.0, 3600.0])
        if what < 0.45:
            self.set(TRIGGER, PERSON, on=TRIGGER not in self.labels)
        elif what < 0.55:
            self.set(PROCESSING, PERSON, on=False)
        elif what < 0.68:
            for label in (TRIGGER, PROCESSING):
                self.set(label, PERSON, on=False)
        elif what < 0.78:
            self.set(TRIGGER, PERSON, on=False)
            self.set(TRIGGER, PERSON, on=True)
        elif what < 0.88:
            self.turn()
        elif what < 0.94:
            self.webhooks.append("/retry")
        else:
            self.make()


class Story:
    """One random story."""

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        two_lists = seed % 3 == 0
        lag = chance.choice([0.0, 0.5, LAG])
        second_reads = chance.choice([0.0, 0.0, 0.3])
        self.world = World(
            chance, two_lists, lag, second_reads, jumps=not two_lists and chance.random() < 0.5
        )
        self.programs: list[tuple[str, Iterator[None]]] = []
        self.attempted: set[int] = set()
        self.acts = chance.randint(1, 8)
        self.pace = chance.choice([1.0, 0.3, 0.05])
        """How often people act; the slowest act when ended runs may be deleted."""
        self.steps = (0.0, 0.05, 0.3, 2.0, *([30.0] if self.pace < 0.1 else []))
        self.delivery = chance.choice([1.0, 1.0, 0.1])
        """How often a webhook that waits is delivered."""

    def play(self) -> World:
        """Play until the people have nothing to do, and then until everything is quiet."""
        world = self.world
        while self.acts:
            self.step(people=True)
        for _ in range(5000):
            self.step(people=False)
            if self.programs or world.webhooks:
                continue
            if world.looks:
                world.now = max(world.now, min(world.looks))
            elif all(run.ended for run in world.runs.values()):
                break
        world.poll()  # whoever was lost until here is found by the next poll
        for _ in range(1000):
            self.step(people=False)
            if not self.programs and world.looks:
                world.now = max(world.now, min(world.looks))
            elif not self.programs and all(run.ended for run in world.runs.values()):
                break
        return world

    def step(self, *, people: bool) -> None:
        world, chance = self.world, self.chance
        world.now += chance.choice(self.steps)
        options = ["operate", "program", "program", "program"]
        options += ["report"] * any(at <= world.now for at in world.looks)
        options += ["receive"] * (bool(world.webhooks) and chance.random() < self.delivery)
        options += ["person"] * (people and self.acts > 0 and chance.random() < self.pace)
        options += ["poll", "sweep"] if chance.random() < 0.05 else []
        match chance.choice(options):
            case "person":
                self.acts -= 1
                world.person()
            case "receive":
                world.receive()
            case "operate":
                world.operate()
            case "poll":
                world.poll()
            case "sweep":
                world.sweep()
            case "report" if not any(name == "report" for name, _ in self.programs):  # one reporter
                world.looks = [at for at in world.looks if at > world.now]
                self.programs.append(("report", world.report()))
            case "program" if self.programs:
                self.advance(*chance.choice(self.programs), people=people)
        for run in world.runs.values():
            if run.state == "running" and id(run) not in self.attempted:
                self.attempted.add(id(run))
                self.programs.append(("attempt", world.attempt(run)))

    def advance(self, name: str, program: Iterator[None], *, people: bool) -> None:
        killed = name == "report" and people and self.chance.random() < 0.05
        if killed or next(program, StopIteration) is StopIteration:
            self.programs.remove((name, program))
            if killed:
                self.world.unsure_since = None
            if killed or name == "attempt":
                self.world.looks.append(self.world.now)


def judge(world: World) -> list[str]:
    """Return which promises were broken, from what really happened and the ends of runs, without `decide`."""

    def covers(ids: tuple[int, ...], event: ItemEvent) -> bool:
        return event.series < len(ids) and event.id <= ids[event.series]

    wrong: list[str] = []
    on: set[str] = set()
    is_open, asking, is_shown = True, None, False
    asked: list[tuple[int, ItemEvent]] = []
    withdrawals: list[tuple[int, ItemEvent]] = []
    stops: list[int] = []
    for place, one in enumerate(world.truth):
        event = one.event
        if event.label:
            (on.add if event.action is ItemAction.LABELED else on.discard)(event.label)
        else:
            is_open = event.action is ItemAction.REOPENED
        if event.user == OWN:
            # This shows that somebody has seen the application: to remove this label now stops its run.
            is_shown = is_shown or event.action is ItemAction.LABELED
            continue
        if event.action is ItemAction.LABELED and event.label == TRIGGER and is_open:
            asking, is_shown = event, False
            asked.append((place, event))
        if event.action is ItemAction.CLOSED or (event.action is ItemAction.UNLABELED and not on & ACTIVE):
            asking = None
            withdrawals.append((place, event))
            stops.append(place)
        elif event.action is ItemAction.UNLABELED and event.label != TRIGGER and is_shown:
            asking = None
            stops.append(place)
    done = [run for run in world.all_runs if run.state == "done"]
    if asking is not None and not any(
        covers(run.answered.ids if run.answered else (), asking) for run in done
    ):
        wrong.append(f"lost: application {asking.id} has no run")
    before: list[tuple[int, ...]] = []
    for run in done:
        ids = run.answered.ids if run.answered else ()
        own = [(place, event) for place, event in asked if covers(ids, event)]
        own = [(place, event) for place, event in own if not any(covers(other, event) for other in before)]
        last = own[-1][0] if own else -1
        # What happened before somebody saw a run that no label asked for says nothing about it.
        known = run.confirmed.ids if run.confirmed and not run.by_label else ()
        if run.by_label and not own:
            wrong.append(
                f"doubled: run {run.number} answers no application that no run before it has answered"
            )
        elif any(
            place > last and covers(ids, event) and not covers(known, event) for place, event in withdrawals
        ):
            wrong.append(f"run {run.number} was done although it was withdrawn")
        if not run.is_round:
            before.append(ids)
    for run in world.all_runs:
        if run.stopped is None or not run.by_label or run.duplicate:
            continue
        earlier = [other for other in done if other.ended_first(run) and not other.is_round]
        past = [other.answered.ids for other in earlier if other.answered]
        open_ = [place for place, event in asked if not any(covers(ids, event) for ids in past)]
        read, recorded = run.stopped
        was_asked = bool(open_) and open_[0] < read
        if was_asked and not any(open_[0] < place < recorded for place in stops):
            wrong.append(f"run {run.number} was cancelled although nobody withdrew its application")
    if stuck := [f"{run.number} {run.state}" for run in world.runs.values() if not run.ended]:
        wrong.append("stuck: " + ", ".join(stuck))
    return wrong


@pytest.mark.parametrize("first", [0, 1000, 2000])
def test_every_label_that_stays_has_its_run_and_no_label_that_went_has_one(first: int) -> None:
    for seed in range(first, first + 500):
        story = Story(seed)
        problems = judge(story.play())
        assert not problems, f"seed {seed}: {problems}\n" + "\n".join(story.world.log)
