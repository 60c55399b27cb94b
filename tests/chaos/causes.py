"""Whether each act of the system on the forge has its cause and its place; without them it is a violation.

`RULES` has a row for each act that the system may do. Its function says why nothing allows an act; it says
nothing if something does. An act without a row is one that the system never does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from tests.chaos.history import Act, ItemKey, Run
from tests.chaos.items import Item, Items
from tests.chaos.promises import CLOSING, Promises, Violation, command_of, delayed, is_branch_of
from tests.chaos.readers import shown_state
from tests.chaos.run_claims import change_number

SECOND = timedelta(seconds=1)
_LAG = 10.0
"""Seconds by which what the item shows may be older than the run, while nothing is broken: a request that the
forge answers late takes effect after the run has gone on."""
_SHORT_LAG = 2.0
"""The same for what an attempt does itself."""
_WORKING = frozenset({"Starting", "Running", "Backoff"})
_WAITING = frozenset({"Queued", "Suspended"})
_FAILURES = ("failure", "timed_out", "error")
ANSWERS = re.compile(r"<!-- coding-agent:answers ([trc0-9 ]*) ?-->")
_CHANGE_LINE = re.compile(r"^(?:Pull|Merge) request: (\S+)", re.MULTILINE)
_ATTEMPT = re.compile(r"attempt (\d+) of (\d+)")
_CLOSES = re.compile(r"^Closes #(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Scene:
    """The history in which an act is looked at."""

    items: Items

    @property
    def promises(self) -> Promises:
        return self.items.promises

    def late(self, at: datetime, seconds: float, *, of: str = "") -> datetime:
        """The time after `at` until which it may still take effect; `of` is that of `delayed`."""
        return delayed(at, seconds, self.items.history, self.promises, of=of)

    @cached_property
    def _phases(self) -> Mapping[ItemKey, Sequence[tuple[datetime, datetime, str, Run]]]:
        """By item, from when to when an item may show which phase of which run."""
        return {key: list(self._shown(item)) for key, item in self.items.all.items()}

    def _shown(self, item: Item) -> Iterator[tuple[datetime, datetime, str, Run]]:
        entered = [
            (seen, phase, run)
            for run in item.runs
            for seen, phase in [(run.created, "Queued"), *zip(run.stored, _names(run), strict=False)]
        ]
        entered.sort(key=lambda one: one[0])
        for place, (seen, phase, run) in enumerate(entered):
            # A run that waits changes nothing of what the item shows of the one before.
            others = (
                after
                for after, other, of in entered[place + 1 :]
                if of is run or other not in _WAITING or phase in _WAITING
            )
            until = next(others, None)
            yield seen, self.items.history.end if until is None else self.late(until, _LAG), phase, run

    def phases(self, key: ItemKey, at: datetime) -> set[str]:
        """The phases of its newest run that an item may show at a time."""
        shown = self._phases.get(key, ())
        return {phase for since, until, phase, _ in shown if since <= at + self._slack and at <= until}

    def phases_of(self, key: ItemKey, run: Run, at: datetime) -> set[str]:
        """The phases of a run that the item's comment may show at a time."""
        shown = [one for one in self._phases[key] if one[3] is run]
        return {phase for since, until, phase, _ in shown if since <= at + self._slack and at <= until}

    @property
    def _slack(self) -> timedelta:
        """By how much acts may look older than they are: Gitea remembers only whole seconds."""
        return SECOND if self.promises.platform == "gitea" else timedelta()

    def working(self, keys: Sequence[ItemKey], at: datetime, *, way: str = "forge") -> list[Run]:
        """The runs of items of which an attempt may have done something that takes effect at a time.

        Args:
            way: whom the attempt has asked for it: only faults on the way there hold a request up.
        """
        return [run for key in keys for run in self.items.all[key].runs if self._works(run, at, way)]

    def _works(self, run: Run, at: datetime, way: str) -> bool:
        history = self.items.history
        if history.has_pods:
            attempts = [pod for pod in run.pods if not pod.checks]
            return any(
                pod.started <= at <= (self.late(pod.ended, _SHORT_LAG, of=way) if pod.ended else history.end)
                for pod in attempts
            )
        began = next((seen for seen, phase in run.phases if phase in _WORKING), None)
        over = self.late(run.ended, _SHORT_LAG, of=way) if run.ended else history.end
        return began is not None and began - SECOND <= at <= over

    def commanded(self, key: ItemKey, at: datetime, *commands: str) -> bool:
        """Whether a person who may has given one of these commands on an item before."""
        return any(
            act.event == "commented"
            and act.at <= at
            and act.actor in self.promises.members
            and command_of(act) in commands
            for act in self.items.all[key].acts
        )


def _names(run: Run) -> list[str]:
    return [phase for _, phase in run.phases]


Rule = Callable[[Scene, Act], str]
_OF_KIND = {
    "commented": "comments",
    "comment_edited": "comments",
    "labeled": "disagreement",
    "unlabeled": "disagreement",
}
"""The kind of violation by which a system promises this; another system may write other comments."""


def cause_violations(items: Items) -> Iterator[Violation]:
    """The acts of the system on the forge that nothing allows."""
    scene = Scene(items)
    for act in items.history.acts:
        if act.actor != items.promises.bot or _OF_KIND.get(act.event) in items.promises.not_promised:
            continue
        rule = RULES.get(act.event)
        why = rule(scene, act) if rule is not None else "which it never does"
        if why:
            what = " ".join(filter(None, (act.event, act.label, act.branch, act.check)))
            place = act.item or _owner(scene, act)
            yield Violation("cause", place, act.at, f"the system did this: {what}, {why}")
    yield from _label_violations(items)
    yield from _model_violations(scene)


def _label_violations(items: Items) -> Iterator[Violation]:
    """The system changes a label only if that changes what the item shows: it reads the item before."""
    if items.promises.platform == "gitea":
        return  # which does not remember the order of what happened within a second
    for item in items.all.values():
        shown: set[str] = set()
        for act in item.acts:
            if act.event not in ("labeled", "unlabeled"):
                continue
            is_there, comes = act.label in shown, act.event == "labeled"
            if act.actor == items.promises.bot and is_there == comes:
                text = f"the system did this: {act.event} {act.label}, which was so already"
                yield Violation("cause", item.key, act.at, text)
            (shown.add if comes else shown.discard)(act.label)


def _model_violations(scene: Scene) -> Iterator[Violation]:
    """Only the attempts of an item's runs, or of the rounds of its changes, ask the model about it."""
    titled: dict[str, list[ItemKey]] = {}
    for key, item in scene.items.all.items():
        for act in item.acts:
            if act.event == "opened" and act.title:
                titled.setdefault(act.title, []).append(key)
    for request in scene.items.history.model:
        keys = titled.get(request.title, [])
        changes = [one.item for key in keys for one in scene.items.changes_of(key) if one.item is not None]
        if request.title and not scene.working([*keys, *changes], request.at, way="model"):
            text = f"the model was asked about {request.title!r}, for which no attempt worked"
            yield Violation("cause", keys[0] if keys else None, request.at, text)


def _owner(scene: Scene, act: Act) -> ItemKey | None:
    return next(iter(scene.items.owners(act.repository, act.branch)), None) if act.branch else None


_SHOWS: Mapping[str, Callable[[Promises], tuple[frozenset[str], frozenset[str]]]] = {
    "working": lambda p: (frozenset({p.processing}), p.triggers | {p.done, p.failed}),
    "waiting": lambda p: (frozenset(), frozenset({p.done, p.failed})),
    "Succeeded": lambda p: (frozenset({p.done}), p.triggers | {p.processing, p.failed}),
    "Failed": lambda p: (frozenset({p.failed}), p.triggers | {p.processing, p.done}),
    "Cancelled": lambda p: (frozenset(), p.triggers | {p.processing, p.done, p.failed}),
}
"""Which labels the system adds and removes as a run enters a phase. A run that waits removes only those of
the end of the run before."""


def _allowed_labels(scene: Scene, act: Act) -> tuple[frozenset[str], frozenset[str]]:
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    assert act.item is not None
    for phase in scene.phases(act.item, act.at):
        waits = "waiting" if phase in _WAITING else phase
        shows = _SHOWS.get("working" if phase in _WORKING else waits)
        if shows is not None:
            add, remove = shows(scene.promises)
            added, removed = added | add, removed | remove
    return added - {""}, removed - {""}


def _labeled(scene: Scene, act: Act) -> str:
    assert act.item is not None
    added, _ = _allowed_labels(scene, act)
    if act.label in added:
        return ""
    if act.label in scene.promises.triggers and not scene.items.history.has_pods:
        # Without Kubernetes, a command applies the label.
        return "" if scene.commanded(act.item, act.at, "/run", "/retry") else "and nobody gave a command"
    return f"and its run is {_listed(scene.phases(act.item, act.at))}"


def _unlabeled(scene: Scene, act: Act) -> str:
    assert act.item is not None
    promises = scene.promises
    _, removed = _allowed_labels(scene, act)
    if act.label in removed:
        return ""
    asking = promises.triggers | {promises.processing}
    if (
        act.label in asking
        and not scene.items.history.has_pods
        and scene.commanded(act.item, act.at, "/cancel")
    ):
        return ""
    return f"and its run is {_listed(scene.phases(act.item, act.at))}"


def _listed(phases: set[str]) -> str:
    return " or ".join(sorted(phases)) or "not there"


def _written(scene: Scene, act: Act) -> str:
    assert act.item is not None
    state = shown_state(act.body)
    item = scene.items.all[act.item]
    if act.event == "comment_edited" and act.comment not in {
        one.comment
        for one in item.acts
        if one.event == "commented" and one.actor == act.actor and one.at <= act.at
    }:
        return "which is not its own"
    if state is None:
        return _replied(scene, act)
    if not state.identifier:
        return "" if act.item in scene.items.changes else "and it shows no run"
    named = [run for run in item.runs if run.identifier == state.identifier]
    runs = named or [run for run in item.runs if not run.identifier and run.number == state.number]
    if not runs and state.phase == "Queued" and not scene.items.history.has_pods:
        return ""  # a task that only waited, until another message took its place
    if not runs:
        return f"and there is no run {state.number} with this identifier"
    if runs[0].number != state.number:
        return f"which says run {state.number}, and it is run {runs[0].number}"
    newer = [run.number for run in item.runs if run.number > state.number and run.created < act.at]
    if newer and not scene.items.history.has_pods:
        return f"which shows run {state.number} after run {max(newer)}"
    shown = _ATTEMPT.search(act.body)
    if shown is not None and int(shown[1]) > int(shown[2]):
        return f"which shows the {shown[0]}"
    if scene.items.history.has_pods:
        phases = scene.phases_of(act.item, runs[0], act.at)
        if state.phase not in phases:
            return f"which says {state.phase}, and run {state.number} is {_listed(phases)}"
    for name, commit in state.statuses:
        if not any(
            one.event == "check" and (one.check, one.commit) == (name, commit) for one in _before(scene, act)
        ):
            return f"which says that {commit[:12]} has the status {name}, and nobody had set it"
    return _names_others_work(scene, act, state.change_url, state.branch)


def _before(scene: Scene, act: Act) -> Iterator[Act]:
    """What the system had done by then."""
    for one in scene.items.history.acts:
        if one.actor == act.actor and one.at <= act.at:
            yield one


def _names_others_work(scene: Scene, act: Act, change_url: str, branch: str) -> str:
    """A comment names the change and the branch of its own item."""
    assert act.item is not None
    own = {act.item.number} if act.item.kind == "change" else set()
    own |= {
        one.item.number
        for one in scene.items.changes_of(act.item)
        if one.at <= act.at + SECOND and one.item is not None
    }
    for url in filter(None, (change_url, *_CHANGE_LINE.findall(act.body))):
        if change_number(url) not in own or act.item.repository not in url:
            return f"which names {url}, and that is not its change"
    opened = scene.items.changes.get(act.item)
    fits = is_branch_of(branch, act.item, scene.promises) or (opened is not None and opened.branch == branch)
    return "" if not branch or fits else f"which names the branch {branch}, and that is not its own"


def _replied(scene: Scene, act: Act) -> str:
    assert act.item is not None
    found = ANSWERS.match(act.body.lstrip())
    if not act.body.strip() and _round_works(scene, act):
        return ""  # what is left on GitLab of a comment that requests a review
    if found is None:
        return "without the hidden line"
    acts = scene.items.all[act.item].acts
    known = {
        remark_id(one) for one in acts if one.actor != act.actor and one.event in REMARKS and one.at <= act.at
    }
    unknown = sorted(set(found[1].split()) - known)
    if unknown:
        return f"which answers {' '.join(unknown)}, and nobody wrote that"
    return "" if _round_works(scene, act) else "while no round worked"


def _round_works(scene: Scene, act: Act) -> bool:
    assert act.item is not None
    return any(run.round is not None for run in scene.working([act.item], act.at))


REMARKS = ("commented", "review_commented", "reviewed")


def remark_id(act: Act) -> str:
    """The id of a remark; the text of a review is a comment on GitLab."""
    if act.event == "review_commented":
        return f"t{act.comment}"
    return f"c{act.comment}" if act.comment else f"r{act.review}"


def _pushed(scene: Scene, act: Act) -> str:
    owners = scene.items.owners(act.repository, act.branch)
    if not owners or act.branch == scene.promises.base:
        return "which is no branch for its work"
    working = scene.working(owners, act.at)
    if not working:
        return "while no attempt for it worked"
    if act.commit and any(one.commit == act.commit and one is not act for one in _pushes(scene, act)):
        return f"whose commit {act.commit[:12]} had been pushed before"
    overwrites = _overwrites(scene, act)
    if overwrites:
        return overwrites
    changes = [
        opened
        for opened in scene.items.changes.values()
        if opened.repository == act.repository and opened.branch == act.branch and opened.at <= act.at
    ]
    closed = [_closed(scene, one, act.at) for one in changes]
    begins = [min([*(pod.started for pod in run.pods), run.ended or act.at]) for run in working]
    if changes and all(at is not None and scene.late(at, _LAG) < min(begins) for at in closed):
        return "whose change was closed before the run began"
    return ""


def _overwrites(scene: Scene, act: Act) -> str:
    """Why a push does not continue what was on its branch; empty if it does."""
    if act.forced:
        return f"which left {act.before[:12]} behind"
    before = [one for one in _pushes(scene, act) if one.branch == act.branch and one is not act]
    if not before or not act.before or scene.promises.platform == "gitea":
        return ""  # Gitea does not remember all pushes whose answers were lost, nor their order
    newest = max(before, key=lambda one: one.at)
    if newest.commit == act.before or newest.before == act.commit:  # the log has the later of two first
        return ""
    return f"from {act.before[:12]}, and {newest.actor} had pushed {newest.commit[:12]}"


def _closed(scene: Scene, opened: Act, at: datetime) -> datetime | None:
    """Since when a change is closed at a time; `None`: it is open."""
    assert opened.item is not None
    acts = scene.items.all[opened.item].acts
    states = [act for act in acts if act.event in (*CLOSING, "reopened") and act.at <= at]
    return states[-1].at if states and states[-1].event in CLOSING else None


def _opened(scene: Scene, act: Act) -> str:
    if act.item is None or act.item.kind != "change":
        return "which it never does"
    issues = [key for key in scene.items.owners(act.repository, act.branch) if key.kind == "issue"]
    if not issues:
        return "from a branch of no issue"
    if not scene.working(issues, act.at):
        return "while no attempt for its issue worked"
    pushed = any(
        one.event == "pushed"
        and (one.repository, one.branch) == (act.repository, act.branch)
        and one.at <= act.at
        for one in scene.items.history.acts
    )
    if not pushed:
        return "and nobody had pushed its branch"
    if act.base and act.base != scene.promises.base:
        return f"into {act.base}"
    closes = {int(number) for number in _CLOSES.findall(act.body)}
    others = sorted(closes - {key.number for key in issues})
    return f"which closes {', '.join(map(str, others))}" if others else ""


def _pushes(scene: Scene, act: Act) -> Iterator[Act]:
    """What was pushed to the repository of an act before it."""
    for one in scene.items.history.acts:
        if one.event == "pushed" and one.repository == act.repository and one.at <= act.at:
            yield one


def _requested_review(scene: Scene, act: Act) -> str:
    assert act.item is not None
    reviewers = {
        one.actor
        for one in scene.items.all[act.item].acts
        if one.event in REMARKS and one.actor != act.actor and one.at <= act.at
    }
    if act.reviewer and act.reviewer not in reviewers:
        return f"from {act.reviewer}, who has reviewed nothing"
    return "" if _round_works(scene, act) else "while no round worked"


_STATES: Mapping[str, str] = {"success": "Succeeded", "failure": "Failed", "failed": "Failed"}
"""The phase of a run whose end a commit status shows."""


def _asked_to_run(scene: Scene, act: Act) -> bool:
    """Whether the account of an act had asked the forge to run this check again."""
    what = (act.actor, act.repository, act.check, act.commit)
    return any(
        (one.actor, one.repository, one.check, one.commit) == what
        for one in scene.items.history.acts
        if one.event == "rerun" and one.at <= act.at
    )


def _checked(scene: Scene, act: Act) -> str:
    if act.check.split("/")[0] != scene.promises.status:
        # A forge queues a check as the account that asks it to run the check again.
        return "" if act.state == "queued" and _asked_to_run(scene, act) else "which is not its own status"
    branches = {
        one.branch
        for one in scene.items.history.acts
        if one.event == "pushed"
        and one.repository == act.repository
        and one.commit == act.commit
        and one.at <= act.at
    }
    if not branches:
        return "of a commit that nobody had pushed"
    owners = [key for branch in branches for key in scene.items.owners(act.repository, branch)]
    runs = [run for key in owners for run in scene.items.all[key].runs if run.created <= act.at]
    if not runs:
        return "of a commit for which it has no run"
    shows = _STATES.get(act.state)
    # A round's status says of the commit before its push only that the work went on.
    if shows is None or act.check != scene.promises.status or any(run.round is not None for run in runs):
        return ""
    ended = {
        phase for run in runs for seen, phase in zip(run.stored, _names(run), strict=False) if seen <= act.at
    }
    return "" if shows in ended else f"which says {act.state}, and no run had {shows.lower()}"


def _reran(scene: Scene, act: Act) -> str:
    failed = any(
        one.event == "check"
        and (one.commit, one.check) == (act.commit, act.check)
        and one.state in _FAILURES
        and one.at <= act.at
        for one in scene.items.history.acts
    )
    return "" if failed else "which had not failed"


RULES: Mapping[str, Rule] = {
    "labeled": _labeled,
    "unlabeled": _unlabeled,
    "commented": _written,
    "comment_edited": _written,
    "review_commented": _replied,
    "review_requested": _requested_review,
    "pushed": _pushed,
    "opened": _opened,
    "check": _checked,
    "rerun": _reran,
}
"""By the event of the forge's log."""
