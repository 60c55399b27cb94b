"""What people do on the forge during a run: a plan drawn from a seed, and its performance.

    cast = Cast(world.repositories, world.people)
    People(world.forge, cast).run(plan(seed, seconds=180, applications=12, cast=cast), clock)

`KINDS` has a row for each kind of act, and `change_acts.py` those on the bot's changes. A new kind is a row
and, if nothing else does the same, a function that performs it. Another forge needs no row, because the
methods of `PeoplesForge` are those of no particular forge.
"""

from __future__ import annotations

import heapq
import math
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.model import Item, Repository

from tests.chaos.ci import Ci
from tests.chaos.clock import Clock
from tests.chaos.forges import ForgeRefusal, PeoplesForge

MEMBER, STRANGER = "member", "stranger"
_STORY, _STORY_WITH_CHANGE = (0.15, 60.0), (0.5, 240.0)
"""How long before the end of a run people open their last item, so that each has time for further acts: this
part of the run, but at most so many seconds. The second is for runs with acts on changes, for which the bot
has to work first."""
_LONGEST_WORK = 8
"""Seconds. Longer work would keep the limits full for most of a run."""
WAIT_SECONDS = 120.0
"""All acts on an item together wait at most so long for the bot's change."""
_RETRY_SECONDS = 2.0
_PAUSES = ((0.3, 3.0), (3.0, 15.0), (15.0, 60.0))
"""Ranges of seconds between two acts on an item: before the run begins, while it works, and after its end."""


@dataclass(frozen=True)
class Cast:
    """Who acts, and where.

    Attributes:
        people: the role of each login, `member` or `stranger`.
        label, processing: the labels that ask for work.
        branch_prefix: of the branches to which the bot pushes.
        more_kinds: of acts, besides those of `KINDS`.
    """

    repositories: Sequence[str]
    people: Mapping[str, str]
    label: str = "coding agent"
    processing: str = "coding agent processing"
    branch_prefix: str = "coding-agent/"
    more_kinds: Mapping[str, ActKind] = field(default_factory=dict)

    @property
    def kinds(self) -> Mapping[str, ActKind]:
        """All kinds of acts."""
        return {**KINDS, **self.more_kinds}

    def of(self, role: str) -> list[str]:
        """The logins of a role."""
        return sorted(login for login, has in self.people.items() if has == role)


@dataclass(frozen=True)
class Act:
    """One thing that one person does.

    Attributes:
        at: seconds after the start.
        kind: the row of `Cast.kinds`.
        step: which of the row's steps, from 0.
        item: name of the item, which its title begins with, such as `item-7`.
        text: the title of an item to open, or the text of a comment.
    """

    at: float
    kind: str
    step: int
    item: str
    repository: str
    actor: str
    text: str = ""


@dataclass(frozen=True)
class State:
    """What the plan knows of an item, if everything goes as planned.

    Attributes:
        asked: somebody has asked for work at least once.
        works: the model writes something for it.
        change_open: nobody has merged or closed the bot's change.
        thread: somebody has commented on a line of the change.
        checked: the change has a check.
    """

    open: bool = True
    labeled: bool = False
    asked: bool = False
    works: bool = True
    change_open: bool = True
    thread: bool = False
    checked: bool = False


class SkippedAct(Exception):
    """The forge's state does not allow the act now, e.g. there is nothing to merge; the message says why."""


class TooEarly(SkippedAct):
    """The bot has not opened a change for the item yet."""


Perform = Callable[["People", Act], None]


@dataclass(frozen=True)
class Step:
    """A part of an act.

    Attributes:
        after: range of seconds since the act's previous step.
        applies: whether it applies the label.
    """

    perform: Perform
    after: tuple[float, float] = (0.0, 0.0)
    applies: bool = False


@dataclass(frozen=True)
class ActKind:
    """A row of `KINDS`.

    Attributes:
        weight: how often it occurs, relative to the others.
        role: who does it.
        when: whether it makes sense for an item in this state.
        then: the item's state afterward.
        opens: it opens an item; nothing else begins an item.
        text: of the comment.
        patient: it waits for the bot's change, and so do the later acts on the item.
    """

    weight: float
    steps: tuple[Step, ...]
    role: str = MEMBER
    when: Callable[[State], bool] = lambda state: state.open
    then: Callable[[State], State] = lambda state: state
    opens: bool = False
    text: str = ""
    patient: bool = False


def plan(seed: int, seconds: float, applications: int, cast: Cast) -> list[Act]:
    """What people do, in the order of time.

    Args:
        seconds: the length of the run. No act is later.
        applications: how often the label is applied at least.

    Raises:
        ValueError: nobody has a role that the table needs.
    """
    random = Random(f"people {seed}")
    kinds = cast.kinds
    missing = {kind.role for kind in kinds.values()} - set(cast.people.values())
    if missing or not cast.repositories:
        raise ValueError(f"the cast lacks {', '.join(sorted(missing)) or 'repositories'}")
    used: Counter[str] = Counter()
    acts: list[Act] = []
    number = applied = 0
    while applied < applications:
        number += 1
        story = _story(random, f"item-{number}", seconds, cast, used)
        acts += story
        applied += sum(kinds[act.kind].steps[act.step].applies for act in story)
    return sorted(acts, key=lambda act: act.at)


def _story(random: Random, item: str, seconds: float, cast: Cast, used: Counter[str]) -> list[Act]:
    """Everything that happens to one item."""
    repository = random.choice(list(cast.repositories))
    part, most = _STORY_WITH_CHANGE if cast.more_kinds else _STORY
    state, at = State(), random.uniform(0.0, seconds - min(seconds * part, most))
    acts: list[Act] = []
    kinds = cast.kinds
    # What happens to a change takes more acts than what happens to an issue.
    for number in range(random.randint(4, 12) if cast.more_kinds else random.randint(2, 7)):
        possible = [name for name, kind in kinds.items() if kind.opens == (number == 0) and kind.when(state)]
        # A kind that has occurred often becomes rarer, so that a short run has as many kinds as it can.
        weights = [kinds[name].weight / (1 + used[name] / kinds[name].weight) for name in possible]
        [name] = random.choices(possible, weights)
        kind = kinds[name]
        used[name] += 1
        actor = random.choice(cast.of(kind.role))
        text = _title(random, item) if kind.opens else kind.text
        for index, step in enumerate(kind.steps):
            at += random.uniform(*step.after)
            acts.append(Act(round(at, 3), name, index, item, repository, actor, text))
        state = kind.then(state)
        if kind.opens:
            state = replace(state, works="works" in text)
        at += random.uniform(*random.choice(_PAUSES))
    return [act for act in acts if act.at <= seconds]


def _title(random: Random, item: str) -> str:
    """A title, which tells the scripted model what to do.

    `item-7 works for 3 s` (0 to 8 s, then a commit), `item-7 fails` (the model refuses every request for
    good), or `item-7 writes nothing` (it ends without a change).
    """
    works = f"works for {random.randint(0, _LONGEST_WORK)} s"
    [how] = random.choices([works, "fails", "writes nothing"], [8, 1, 1])
    return f"{item} {how}"


@dataclass
class People:
    """Performs acts on a forge.

    Attributes:
        numbers: of the items that are open or were, by their names.
        ci: runs the checks of the bot's changes.
        performed: the records of what was done, and of what was skipped and why.
    """

    forge: PeoplesForge
    cast: Cast
    numbers: dict[str, int] = field(default_factory=dict)
    ci: Ci = field(init=False)
    performed: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ci = Ci(self.forge)

    def run(self, acts: Sequence[Act], clock: Clock, until: float = math.inf) -> None:
        """Perform each act at its time, or once the one before it is done; end early if the run does.

        Args:
            until: seconds after the start; acts that have waited longer are skipped.
        """
        queue = [(act.at, number, act) for number, act in enumerate(acts)]
        heapq.heapify(queue)
        waited: dict[str, float] = defaultdict(float)
        while queue:
            due, number, act = heapq.heappop(queue)
            if due < act.at + waited[act.item]:  # an earlier act on the item waits
                heapq.heappush(queue, (act.at + waited[act.item], number, act))
                continue
            if due > until:
                skipped = "the run was over"
            elif not clock.wait_until(due):
                return
            else:
                try:
                    skipped = self._perform(act)
                except TooEarly as error:
                    if self.cast.kinds[act.kind].patient and waited[act.item] < WAIT_SECONDS:
                        waited[act.item] += _RETRY_SECONDS
                        heapq.heappush(queue, (act.at + waited[act.item], number, act))
                        continue
                    skipped = str(error)
            self.performed.append(
                {
                    "record": "act",
                    "at": clock.now().isoformat(),
                    "kind": act.kind,
                    "step": act.step,
                    "item": act.item,
                    "repository": act.repository,
                    "number": self.numbers.get(act.item),
                    "actor": act.actor,
                    "skipped": skipped,
                }
            )

    def perform(self, act: Act) -> str:
        """Do it now; empty, or why the forge's state does not allow it."""
        try:
            return self._perform(act)
        except TooEarly as error:
            return str(error)

    def _perform(self, act: Act) -> str:
        try:
            self.cast.kinds[act.kind].steps[act.step].perform(self, act)
        except TooEarly:
            raise
        except SkippedAct as error:
            return str(error)
        except (KeyError, HttpError, ForgeRefusal) as error:
            return f"the forge refuses it: {error!r}"
        except subprocess.CalledProcessError as error:  # somebody else has moved the branch meanwhile
            return f"git refuses it: {error.stderr.decode(errors='replace')[-200:]}"
        return ""

    def issue(self, act: Act) -> Item:
        """The act's item, live.

        Raises:
            SkippedAct: it was never opened.
        """
        if act.item not in self.numbers:
            raise SkippedAct("the item does not exist")
        return self.forge.item(act.repository, self.numbers[act.item])

    def repository(self, act: Act) -> Repository:
        """The act's repository, live."""
        return self.forge.repository(act.repository)

    def branch(self, act: Act) -> str:
        """The newest branch that the bot has pushed for the item.

        Raises:
            SkippedAct: there is none.
        """
        name = f"{self.cast.branch_prefix}issue-{self.issue(act).number}"
        pushed = self.forge.pushed_branches(act.repository)
        found = [branch for branch in pushed if branch == name or branch.startswith(f"{name}-r")]
        if not found:
            raise TooEarly("the bot has pushed nothing")
        return found[-1]

    def change(self, act: Act) -> Item:
        """The newest change that the bot has opened for the item, live; it is open.

        Raises:
            TooEarly: there is none.
            SkippedAct: it is closed.
        """
        found = self.newest_change(act)
        if not found.open:
            raise SkippedAct("the bot's change is closed")
        return found

    def newest_change(self, act: Act) -> Item:
        """The same, open or not."""
        branch = self.branch(act)
        found = [one for one in self.forge.changes(act.repository) if one.head == branch]
        if not found:
            raise TooEarly("the bot has no change for the item")
        return found[-1]


def _open(people: People, act: Act, *, labeled: bool = False, body: str = "Please do it.") -> None:
    labels = [people.cast.label] if labeled else []
    people.numbers[act.item] = people.forge.open_issue(
        act.repository, act.text, body, by=act.actor, labels=labels
    )


_form = partial(
    _open, labeled=True, body="### What should change?\n\nThis.\n\n### Version\n\n_No response_\n"
)
"""Opens an issue by a form, which applies its labels whoever the author is."""


def _label(people: People, act: Act) -> None:
    item = people.issue(act)
    if not item.open:
        raise SkippedAct("the item is closed")
    if item.has_label(people.cast.label):
        raise SkippedAct("the label is on the item already")
    people.forge.add_label(act.repository, item.number, people.cast.label, by=act.actor)


def _unlabel(people: People, act: Act) -> None:
    item = people.issue(act)
    asking = [name for name in (people.cast.label, people.cast.processing) if item.has_label(name)]
    if not asking:
        raise SkippedAct("no label asks for work")
    for name in asking:
        people.forge.remove_label(act.repository, item.number, name, by=act.actor)


def _close(people: People, act: Act) -> None:
    item = people.issue(act)
    if not item.open:
        raise SkippedAct("the item is closed already")
    people.forge.close(act.repository, item.number, by=act.actor)


def _reopen(people: People, act: Act) -> None:
    item = people.issue(act)
    if item.open:
        raise SkippedAct("the item is open already")
    people.forge.reopen(act.repository, item.number, by=act.actor)


def _comment(people: People, act: Act) -> None:
    people.forge.comment(act.repository, people.issue(act).number, act.text, by=act.actor)


def _push_to_branch(people: People, act: Act) -> None:
    files = {f"people/{act.item}.txt": f"{act.actor} at {act.at}\n"}
    people.forge.push(act.repository, people.branch(act), files, by=act.actor)


def _push_to_main(people: People, act: Act) -> None:
    branch = people.repository(act).default_branch
    people.forge.push(act.repository, branch, {f"people/main-{act.item}.txt": f"{act.at}\n"}, by=act.actor)


def _merge(people: People, act: Act) -> None:
    people.forge.merge(act.repository, people.change(act).number, by=act.actor)


def _applied(state: State) -> State:
    return replace(state, labeled=True, asked=True)


def _relabel(least: float, most: float) -> ActKind:
    steps = (Step(_unlabel), Step(_label, (least, most), applies=True))
    return ActKind(3, steps, when=lambda state: state.open and state.labeled, then=_applied)


def _says(text: str, weight: float, *, role: str = MEMBER, asks: bool = False, ends: bool = False) -> ActKind:
    """A comment on an item for which somebody has asked for work; `asks` and `ends` say what it does."""

    def then(state: State) -> State:
        return replace(state, labeled=(state.labeled or asks) and not ends)

    return ActKind(weight, (Step(_comment),), role, lambda state: state.asked, then, text=text)


KINDS: dict[str, ActKind] = {
    "open": ActKind(3, (Step(_open),), opens=True),
    "open by a stranger": ActKind(2, (Step(_open),), STRANGER, opens=True),
    "open and label": ActKind(
        5, (Step(_open), Step(_label, (0.0, 5.0), applies=True)), then=_applied, opens=True
    ),
    "open with the label": ActKind(
        3, (Step(partial(_open, labeled=True), applies=True),), then=_applied, opens=True
    ),
    "form of a member": ActKind(1, (Step(_form, applies=True),), then=_applied, opens=True),
    "form of a stranger": ActKind(1, (Step(_form, applies=True),), STRANGER, then=_applied, opens=True),
    "label": ActKind(
        8,
        (Step(_label, applies=True),),
        when=lambda state: state.open and not state.labeled,
        then=_applied,
    ),
    "unlabel": ActKind(
        3,
        (Step(_unlabel),),
        when=lambda state: state.open and state.labeled,
        then=lambda state: replace(state, labeled=False),
    ),
    "relabel within a second": _relabel(0.05, 0.8),
    "relabel within ten seconds": _relabel(1.0, 9.0),
    "relabel later": _relabel(10.0, 40.0),
    "close": ActKind(2, (Step(_close),), then=lambda state: replace(state, open=False, labeled=False)),
    "reopen": ActKind(
        4, (Step(_reopen),), when=lambda state: not state.open, then=lambda state: replace(state, open=True)
    ),
    "/cancel": _says("/cancel", 2, ends=True),
    "/retry": _says("/retry", 2, asks=True),
    "/run": _says("/run", 2, asks=True),
    "/cancel of a stranger": _says("/cancel", 1, role=STRANGER),
    "/run of a stranger": _says("/run", 1, role=STRANGER),
    "comment of a stranger": _says("I see this too.", 1, role=STRANGER),
    "push to the task's branch": ActKind(1, (Step(_push_to_branch),), when=lambda state: state.asked),
    "push to main": ActKind(1, (Step(_push_to_main),)),
    "merge": ActKind(
        2,
        (Step(_merge),),
        when=lambda state: state.open and state.asked,
        then=lambda state: replace(state, open=False, labeled=False, change_open=False),
    ),
}
