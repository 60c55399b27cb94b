"""What a history violates of the promises about runs: what caused each, its life cycle, and its work.

A claim says what may happen. A run needs somebody who asked for it and whose request no earlier run has
answered; its end needs an attempt, work or a withdrawal; a pod needs a run that may work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import combinations

from tests.chaos.history import CONTROL_PLANE, ENDED, History, Pod, Run
from tests.chaos.items import Item, Items, Request
from tests.chaos.promises import CLOSING, Promises, Violation, delayed, is_old
from tests.chaos.readers import shown_state

SECOND = timedelta(seconds=1)
_NEAR_THE_END = timedelta(seconds=5)
"""An attempt reads its item for the last time shortly before it ends."""
_DECIDES = timedelta(seconds=30)
_WORKING = frozenset({"Starting", "Running"})
_AFTER = {
    "": frozenset({"Queued", "Suspended", "Starting", "Running"}),
    "Queued": frozenset({"Suspended", "Starting", "Running", "Backoff"}),
    "Suspended": frozenset({"Queued", "Starting", "Running", "Backoff"}),
    "Starting": frozenset({"Queued", "Suspended", "Running", "Backoff"}),
    "Running": frozenset({"Queued", "Suspended", "Starting", "Backoff"}),
    "Backoff": frozenset({"Queued", "Suspended", "Starting", "Running"}),
}
"""The phases that may follow a phase; besides, a run may end at any time."""
NO_ATTEMPT_NEEDED = frozenset({"NotAuthorized", "ItemGone", "Configuration"})
"""Reasons for which a run may fail before it has an attempt."""
WITHOUT_WORK = frozenset({"NothingToChange", "Superseded"})
"""Reasons for which a run may succeed although it has pushed nothing."""


def run_violations(items: Items) -> Iterator[Violation]:
    """What does not hold of the promises about runs."""
    history, promises = items.history, items.promises
    for item in items.all.values():
        yield from _causes(item, history, promises)
        yield from _numbers(item, history, promises)
        for run in item.runs:
            yield from _place(run, items)
            yield from _life_cycle(run)
            yield from _begins(run, history)
            yield from _attempts(run, history, promises)
            yield from _end(run, item, items)
        yield from _overlaps(item)
    for one in history.strays:
        if isinstance(one, Pod):
            yield Violation("cause", None, one.started, f"pod {one.name} belongs to no run")
        else:
            yield Violation("cause", None, one.created, f"the Job {one.name} belongs to no run")
    for at, name in history.undeleted:
        if _is_logged(at, history):
            yield Violation("cause", None, at, f"{name} is being deleted, and nobody has asked for that")


def _causes(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """Each run answers a label or a command that no earlier run has answered, of the person that it names."""
    runs = sorted(item.asked_runs, key=lambda run: run.created)
    for place, run in enumerate(runs):
        if run.duplicate_of and run.phase == "Cancelled" and not run.pods:
            continue  # two receivers created a run for one label, and the operator has removed this one
        before = [one for one in runs[:place] if not one.duplicate_of]
        left = [
            request
            for request in item.requests
            if request.at <= run.created + SECOND
            and not any(
                _answers(one, before[number - 1] if number else None, request, item, history, promises)
                for number, one in enumerate(before)
            )
        ]
        name = f"run {run.number} ({run.name})"
        if not left:
            yield Violation("doubled", item.key, run.created, f"nobody asked for {name}")
        elif run.user and run.user not in _askers(left, history, promises):
            text = f"{name} says that {run.user} asked for it, who has not"
            yield Violation("cause", item.key, run.created, text)


def _askers(requests: Iterable[Request], history: History, promises: Promises) -> set[str]:
    """Who asked, as a run says; without Kubernetes, a command lets the system's account apply the label."""
    by_command = any(request.kind == "command" for request in requests)
    own = {promises.bot} if by_command and not history.has_pods else set()
    return {request.actor for request in requests} | own


def _answers(
    run: Run, before: Run | None, request: Request, item: Item, history: History, promises: Promises
) -> bool:
    """Whether a run has answered a request, so that the request is no cause of a later run.

    Args:
        before: the run of the item before this one.
    """
    end = run.ended or history.end
    if run.phase == "Cancelled":
        # It answered nothing that somebody asked for after its work was withdrawn.
        since = before.ended if before is not None else None
        return not any(
            (since is None or since < act.at) and act.at <= min(request.at, end) for act in item.withdrawals
        )
    if request.kind == "command":
        return delayed(request.at, promises.start, history, promises) < _over(run, history)
    return request.applied < _over(run, history)


def _over(run: Run, history: History) -> datetime:
    """Since when a request may be too late for a run: its attempt no longer reads the item."""
    ends = [pod.ended for pod in run.pods if pod.ended is not None]
    over = min([max(ends)] if ends else [run.ended or history.end]) - _NEAR_THE_END
    end = run.ended or history.end
    return min([over, *(fault.start for fault in history.faults if fault.start <= end <= fault.felt_until)])


def _numbers(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """The runs of an item are numbered from 1, in the order in which they were created.

    Without Kubernetes, a task that only waited, and whose place another one took, has used a number. The
    comment has shown that, because each run has the number after the one that the comment shows.
    """
    for number, count in Counter(run.number for run in item.runs).items():
        if count > 1:
            first = next(run for run in item.runs if run.number == number)
            yield Violation("doubled", item.key, first.created, f"{count} runs have the number {number}")
    used = {run.number for run in item.runs}
    if not history.has_pods:
        used |= {state.number for act in item.acts if (state := shown_state(act.body)) and state.identifier}
    known = sorted(used)
    # A Gitea that is killed remembers of a comment only the newest version.
    forgets = promises.platform == "gitea" and not history.has_pods
    if item.runs and known != list(range(1, len(known) + 1)) and not forgets:
        listed = ", ".join(map(str, known))
        yield Violation("life cycle", item.key, item.runs[0].created, f"its runs have the numbers {listed}")
    for before, after in zip(item.runs, item.runs[1:], strict=False):
        if after.created < before.created:
            text = f"run {after.number} was created before run {before.number}"
            yield Violation("life cycle", item.key, after.created, text)


def _place(run: Run, items: Items) -> Iterator[Violation]:
    """A run is for an item of the forge, and says so truly."""
    promises = items.promises
    if run.item not in items.all or not items.all[run.item].acts:
        yield Violation("cause", run.item, run.created, f"run {run.number} is for an item that is not there")
    if run.round is not None and items.issue_of(run.item) is None:
        text = f"run {run.number} is a round on a change that is none of the system's"
        yield Violation("cause", run.item, run.created, text)
    if run.platform and promises.platform and run.platform != promises.platform:
        text = f"run {run.number} is for {run.platform}, and the item is on {promises.platform}"
        yield Violation("cause", run.item, run.created, text)


def _life_cycle(run: Run) -> Iterator[Violation]:
    """Each phase may follow the one before, none follows the end, and none is older than the run."""
    before = ""
    for at, phase in run.phases:
        if before in ENDED:
            text = f"run {run.number} had ended ({before}), and then it was {phase}"
            yield Violation("resumed", run.item, at, text)
        elif phase not in _AFTER.get(before, ENDED) | ENDED:
            text = f"run {run.number} was {before or 'new'}, and then {phase}"
            yield Violation("life cycle", run.item, at, text)
        if at < run.created - SECOND:
            yield Violation("life cycle", run.item, at, f"run {run.number} was {phase} before it was created")
        before = phase
    if run.altered is not None:
        yield Violation("life cycle", run.item, run.altered, f"the spec of run {run.number} was changed")
    if run.deleted is not None:
        yield Violation("life cycle", run.item, run.deleted, f"run {run.number} was deleted")


def _begins(run: Run, history: History) -> Iterator[Violation]:
    """A run works only when it has an attempt, and has none before it was created or after its end."""
    logged = _is_logged(run.ended or history.end, history)
    for at, phase in run.phases:
        made = [job.created for job in run.jobs] if phase == "Starting" else [pod.started for pod in run.pods]
        if history.has_pods and logged and phase in _WORKING and min(made, default=history.end) > at + SECOND:
            yield Violation("work", run.item, at, f"run {run.number} is {phase}, and has no attempt")
    for job in run.jobs:
        if job.created < run.created - SECOND or (run.ended is not None and job.created > run.ended):
            text = f"the Job {job.name} was created while run {run.number} was not there, or had ended"
            yield Violation("cause", run.item, job.created, text)


def _attempts(run: Run, history: History, promises: Promises) -> Iterator[Violation]:
    """A run has one attempt at a time, no more than allowed, and only while it may work."""
    attempts = [pod for pod in run.pods if not pod.checks]
    for one, two in combinations(sorted(attempts, key=lambda pod: pod.started), 2):
        if one.ended is None or two.started < one.ended - SECOND:
            text = f"the attempts {one.name} and {two.name} of run {run.number} worked at the same time"
            yield Violation("overlap", run.item, two.started, text)
    for pod in run.pods:
        yield from _pod(pod, run, history, promises)
    counted = [one for one in run.attempts or () if one.counted]
    if run.max_attempts and len(counted) > run.max_attempts:
        text = f"run {run.number} has {len(counted)} attempts that count, {run.max_attempts} are allowed"
        yield Violation("limit", run.item, counted[-1].started, text)
    numbers = [one.number for one in run.attempts or ()]
    if numbers != sorted(set(numbers)):
        yield Violation("life cycle", run.item, run.created, f"run {run.number} has the attempts {numbers}")
    shown, made = set(numbers), {job.attempt for job in run.jobs}
    if run.attempts is not None and run.ended is not None and _is_logged(run.ended, history):
        for number in sorted(shown - made):
            text = f"attempt {number} of run {run.number} has no Job"
            yield Violation("cause", run.item, run.ended, text)
        for number in sorted(made - shown):
            text = f"run {run.number} does not show attempt {number}, which had a Job"
            yield Violation("life cycle", run.item, run.ended, text)
    names = Counter(job.attempt for job in run.jobs)
    for number, count in names.items():
        if count > 1:
            text = f"attempt {number} of run {run.number} had {count} Jobs"
            yield Violation("doubled", run.item, run.jobs[0].created, text)


def _pod(pod: Pod, run: Run, history: History, promises: Promises) -> Iterator[Violation]:
    if pod.started < run.created - SECOND:
        text = f"pod {pod.name} was started before run {run.number} was created"
        yield Violation("cause", run.item, pod.started, text)
    if run.ended is not None:
        if pod.started > run.ended:
            text = f"pod {pod.name} was started after run {run.number} had ended"
            yield Violation("cause", run.item, pod.started, text)
        elif (pod.ended or history.end) > delayed(run.ended, promises.grace, history, promises):
            text = f"pod {pod.name} worked on after run {run.number} had ended"
            yield Violation("stopped late", run.item, run.ended, text)
    for begin, end in run.suspended:
        # The operator may just have decided to start what somebody suspends.
        since = begin if begin <= run.created else delayed(begin, 1, history, promises)
        if since < pod.started < (end or history.end):
            text = f"pod {pod.name} was started while run {run.number} was suspended"
            yield Violation("cause", run.item, pod.started, text)
        gone = delayed(begin, promises.stop + promises.grace, history, promises)
        if pod.started < begin and gone < min(pod.ended or history.end, end or history.end):
            text = f"pod {pod.name} worked on while run {run.number} was suspended"
            yield Violation("stopped late", run.item, begin, text)
    if run.jobs and not pod.checks and pod.attempt not in {job.attempt for job in run.jobs}:
        text = f"pod {pod.name} is of attempt {pod.attempt}, which has no Job"
        yield Violation("cause", run.item, pod.started, text)


def _is_logged(at: datetime, history: History) -> bool:
    """Whether nothing was lost of the API server's log: one that is killed may not have written its end."""
    return not any(
        any(part in fault.kind for part in CONTROL_PLANE) and fault.start <= at for fault in history.faults
    )


def _end(run: Run, item: Item, items: Items) -> Iterator[Violation]:
    """A run ends for a reason: it has done its work, its attempts failed, or somebody withdrew it."""
    promises = items.promises
    if run.ended is None:
        return
    match run.phase:
        case "Succeeded":
            texts = list(_success(run, item, items))
        case "Failed":
            texts = list(_failure(run, item, items))
        case _:
            texts = list(_cancellation(run, item, items))
    for text in texts:
        yield Violation("work", run.item, run.ended, f"run {run.number} {text}")
    if run.phase != "Succeeded" or run.round is not None:
        return
    # Whoever applied the label that the run answers must be allowed to ask.
    asked = [one.actor for one in item.requests if one.at <= run.ended]
    who = run.user or (asked[-1] if asked else "")
    if promises.members and asked and not (promises.members & {who, *asked}):
        text = f"run {run.number} worked for {who}, who may not ask for it"
        yield Violation("rights", run.item, run.created, text)


def _success(run: Run, item: Item, items: Items) -> Iterator[str]:
    history = items.history
    begins = [pod for pod in run.pods if not pod.checks]
    if history.has_pods:
        if not begins:
            yield "succeeded without an attempt"
        elif all(pod.succeeded is False for pod in begins) and _is_logged(run.ended or history.end, history):
            yield "succeeded, and each of its pods failed"
    elif not any(phase in _WORKING for _, phase in run.phases):
        yield "succeeded, and never worked"
    if run.attempts is not None and not any(one.outcome == "Succeeded" for one in run.attempts):
        yield "succeeded without an attempt that did"
    if run.round is not None or run.reason in WITHOUT_WORK:
        return
    for attempt in run.attempts or ():
        if attempt.outcome == "Succeeded" and not attempt.tokens:
            yield f"succeeded, and attempt {attempt.number} says nothing of the tokens that it used"
    if history.has_model and not _asked_model(run, item, history):
        yield "succeeded without an answer of the model"
    yield from _work(run, item, items)


def _work(run: Run, item: Item, items: Items) -> Iterator[str]:
    """A run that succeeds has pushed, and its change is there and open, unless somebody closed it."""
    history = items.history
    end = run.ended or history.end
    began = _began(run) or run.created
    branches = {run.result.branch} if run.result is not None and run.result.branch else None
    pushes = [
        act
        for act in history.acts
        if act.event == "pushed"
        and act.actor == items.promises.bot
        and act.repository == run.item[:2]
        and began - SECOND <= act.at <= end + SECOND
        and (branches is None or act.branch in branches)
        and run.item in items.owners(act.repository, act.branch)
    ]
    if not pushes:
        yield "succeeded without a push"
    elif run.result is not None and run.result.commit and run.result.commit != pushes[-1].commit:
        yield f"says that it pushed {run.result.commit[:12]}, and it was {pushes[-1].commit[:12]}"
    is_last = run is item.runs[-1] and is_old(end, history, items.promises)
    if is_last and run.result is not None and run.result.commit:  # a run that follows at once may hide it
        yield from _status(run.result.commit, items)
    if run.item.kind != "issue":
        return
    opened = [act for act in items.changes_of(run.item) if act.at <= end + SECOND]
    if not opened:
        yield "succeeded without a change"
    if run.result is not None and run.result.change_url and opened:
        shown = change_number(run.result.change_url)
        if shown not in {act.item.number for act in opened if act.item is not None}:
            yield f"names {run.result.change_url}, which is no change of its item"


def _status(commit: str, items: Items) -> Iterator[str]:
    """The commit of a run that succeeded has a commit status that says so."""
    promises = items.promises
    states = [
        act.state
        for act in items.history.acts
        if act.event == "check"
        and act.actor == promises.bot
        and (act.check, act.commit) == (promises.status, commit)
    ]
    if "success" not in states:
        yield f"succeeded, and the status of {commit[:12]} is {states[-1] if states else 'not set'}"


def change_number(url: str) -> int:
    """The number of a change in its address; 0: it has none."""
    last = url.rstrip("/").rpartition("/")[2]
    return int(last) if last.isdigit() else 0


def _asked_model(run: Run, item: Item, history: History) -> bool:
    titles = {act.title for act in item.acts if act.event == "opened" and act.title}
    began, end = _began(run) or run.created, run.ended or history.end
    return not titles or any(
        one.title in titles and one.status == 200 and began - SECOND <= one.at <= end for one in history.model
    )


def _failure(run: Run, item: Item, items: Items) -> Iterator[str]:
    history, promises = items.history, items.promises
    if run.reason in NO_ATTEMPT_NEEDED or run.reason in promises.fails_without_attempt:
        if run.reason == "NotAuthorized" and run.user in promises.members:
            yield f"failed because {run.user} may not ask for it, who may"
        return
    if history.has_pods:
        if not [pod for pod in run.pods if not pod.checks]:
            yield "failed without an attempt"
    elif not any(phase in _WORKING for _, phase in run.phases):
        yield "failed, and never worked"
    elif history.has_model and not any(fault.start <= (run.ended or history.end) for fault in history.faults):
        titles = {act.title for act in item.acts if act.event == "opened" and act.title}
        began = _began(run) or run.created
        if titles and not any(one.title in titles and one.at >= began - SECOND for one in history.model):
            yield "failed without a request to the model"
    if run.attempts is not None and run.attempts and run.attempts[-1].outcome == "Succeeded":
        yield "failed, and its last attempt succeeded"


def _cancellation(run: Run, item: Item, items: Items) -> Iterator[str]:
    if run.duplicate_of:
        return
    end = run.ended or items.history.end
    causes = list(item.withdrawals)
    if run.item.kind == "change" and run.round is not None:
        issue = items.issue_of(run.item)
        causes += [act for act in issue.withdrawals if act.event in CLOSING] if issue is not None else []
    ends = [one.ended for one in item.runs if one.created < run.created and one.ended is not None]
    asked = [one.at for one in item.requests if max(ends, default=one.at) <= one.at <= run.created + SECOND]
    # A change may be closed while the system decides on a round for it.
    since = min([run.created - (_DECIDES if run.round is not None else SECOND), *asked])
    if not any(since <= act.at <= end + SECOND for act in causes):
        yield "was cancelled, and nobody had withdrawn it"


def _overlaps(item: Item) -> Iterator[Violation]:
    """No two runs of an item work at the same time."""
    for before, after in combinations(item.runs, 2):
        began = _began(after)
        if began is None or _began(before) is None:
            continue
        ends = [pod.ended for pod in before.pods]
        over = max((end for end in ends if end is not None), default=before.ended)
        if None in ends or over is None or over > began:
            text = f"run {after.number} began while run {before.number} worked"
            yield Violation("overlap", item.key, began, text)


def _began(run: Run) -> datetime | None:
    if run.pods:
        return min(pod.started for pod in run.pods)
    return next((at for at, phase in run.phases if phase in _WORKING), None)
