"""The verdict on a history: what was promised about it and does not hold. Pure; the standard library only.

    verdict = judge(history, Promises(global_limit=3))
    assert not verdict.violations, verdict.text()

Each claim is a function from an item, or from the whole history, to the violations that it finds. Some say
what must happen, and by when (this module). The others say what may happen: `run_claims.py` of runs, and
`causes.py` of everything that the system does on the forge. Whatever these do not explain is a violation,
so the judge finds errors that nobody has thought of.

A withdrawal is a person's removal of the last label that asks for work, the closing or merging of the item,
or a `/cancel` of a person who may give it.

A fault puts off what is due while it lasts, and shortly after it. Many short faults could put off everything
until the end of a run, so that the judge would see nothing: all of them together put a time off by at most
`Promises.patience`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from tests.chaos.causes import cause_violations
from tests.chaos.history import Act, History, ItemKey
from tests.chaos.items import Item, Items
from tests.chaos.promises import CLOSING, Promises, Violation, command_of, delayed, is_branch_of, is_old
from tests.chaos.readers import shown_state
from tests.chaos.round_claims import rounds_violations
from tests.chaos.run_claims import run_violations

_NEAR = timedelta(seconds=15)
"""A command this shortly after the end of a run may have found it not ended."""
_WRITING = ("commented", "review_commented", "comment_edited", "labeled")


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
        runs: without rounds.
        unknown: applications too close to the end of the history, or deliveries that got no answer.
    """

    violations: tuple[Violation, ...]
    applications: int
    runs: int
    unknown: tuple[str, ...] = ()
    kinds: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    def text(self) -> str:
        """A line for each violation, after the figures."""
        head = f"{self.applications} applications, {self.runs} runs, {self.rounds} rounds, "
        head += f"{len(self.unknown)} unknown"
        return "\n".join([head, *map(str, self.violations)])


def judge(history: History, promises: Promises) -> Verdict:
    """What does not hold of the promises, oldest first."""
    known = Items(history, promises)
    items = list(known.all.values())
    found = [
        *(violation for item in items for violation in _of_item(item, history, promises)),
        *run_violations(known),
        *cause_violations(known),
        *_limits(history, promises),
        *_budgets(history, promises),
        *_unstored(history, items, promises),
        *rounds_violations(history, promises),
    ]
    found = [violation for violation in found if violation.kind not in promises.not_promised]
    unknown = [
        f"{item.key}: asked for at {request.at:%H:%M:%S}, just before the end"
        for item in items
        for request in item.requests
        if not is_old(request.at, history, promises)
    ]
    unknown += [f"{one.item}: a delivery got no answer" for one in history.deliveries if one.status == 0]
    rounds = sum(run.round is not None for runs in history.runs.values() for run in runs)
    return Verdict(
        tuple(sorted(found, key=lambda violation: violation.at)),
        sum(request.required for item in items for request in item.requests),
        sum(map(len, history.runs.values())) - rounds,
        tuple(unknown),
        Counter(violation.kind for violation in found),
        rounds,
    )


def _of_item(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    yield from _lost_or_stuck(item, history, promises)
    yield from _lost_commands(item, history, promises)
    yield from _late(item, history, promises)
    yield from _after_withdrawals(item, history, promises)
    yield from _comments_and_changes(item, history, promises)
    yield from _disagreement(item, history, promises)


def _lost_or_stuck(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """A label that stays has a run that ends after it and is not cancelled, and each run ends."""
    for run in item.runs:
        since = run.phases[-1][0] if run.phases else run.created
        if run.ended is None and is_old(delayed(since, 0, history, promises), history, promises):
            yield Violation("stuck", item.key, since, f"run {run.number} is {run.phase} for good")
    labels = [request for request in item.requests if request.required]
    if not labels:
        return
    last = labels[-1]
    if any(act.at >= last.at for act in item.withdrawals) or not is_old(last.at, history, promises):
        return
    if _due(item, last.at, "labeled", history, promises) > history.end:
        return
    # The forges' times are whole seconds: a run that ends in the label's own second may have answered it.
    # A run that was cancelled did not: nobody has withdrawn the label, only an earlier one.
    second = last.at.replace(microsecond=0)
    if not any(
        run.ended is None or (run.ended >= second and run.phase != "Cancelled") for run in item.asked_runs
    ):
        text = "the label stays, and no run ended after it that was not cancelled"
        yield Violation("lost", item.key, last.at, text)


def _lost_commands(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """The last command that asks for a run has one, if it found the item open and without a run."""
    commands = [request for request in item.requests if request.kind == "command"]
    if not commands or commands[-1] is not item.requests[-1]:
        return
    last = commands[-1]
    due = _due(item, last.at, "commented", history, promises)
    text = next(command_of(act) for act in item.acts if act.at == last.at and act.event == "commented")
    before = [run for run in item.runs if run.created <= last.at]
    closings = [act for act in item.acts if act.event in (*CLOSING, "reopened") and act.at <= last.at]
    is_closed = bool(closings) and closings[-1].event in CLOSING
    withdrawn = any(act.at >= last.at for act in item.withdrawals)
    near_a_run = any(run.ended is None or run.ended >= last.at - _NEAR for run in before)
    looks_old = any(fault.sets_back(last.at) for fault in history.faults)
    nothing_to_retry = text == "/retry" and (not before or before[-1].phase == "Succeeded")
    if is_closed or withdrawn or near_a_run or nothing_to_retry or looks_old:
        return
    if not is_old(due, history, promises):
        return
    if not any(run.created > last.at for run in item.asked_runs):
        yield Violation("lost", item.key, last.at, f"{text} of {last.actor} has no run")


def _late(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """A label has its run soon, if no run of the item is active and nobody takes the label off before."""
    for request in item.requests:
        due = _due(item, request.at, "labeled", history, promises)
        if not request.required or due > history.end:
            continue
        if any(request.at <= act.at <= due for act in item.withdrawals):
            continue
        if any(run.created <= due and (run.ended is None or run.ended >= request.at) for run in item.runs):
            continue
        later = [run for run in item.runs if run.created > due]
        withdrawn = [act for act in item.withdrawals if act.at > due]
        if later and (not withdrawn or later[0].created < withdrawn[0].at):
            late = (later[0].created - request.at).total_seconds()
            yield Violation("late", item.key, request.at, f"its run came {late:.0f} s after the label")
        elif withdrawn and "late" not in promises.not_promised:
            waited = (withdrawn[0].at - request.at).total_seconds()
            text = f"the label was there for {waited:.0f} s, and no run came"
            yield Violation("lost", item.key, request.at, text)


def _due(item: Item, at: datetime, event: str, history: History, promises: Promises) -> datetime:
    """When the run of a request must be there: soon, or with the next poll if its webhook was not taken."""
    soon = delayed(at, promises.start, history, promises)
    brought = any(
        one.item == item.key and one.event == event and 200 <= one.status < 300 and at <= one.at <= soon
        for one in history.deliveries
    )
    return soon if brought else delayed(at, promises.start + promises.poll, history, promises)


def _after_withdrawals(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """After a withdrawal, nothing is pushed, no pod works, and nothing is written for long."""
    for act in item.withdrawals:
        again = min((one.at for one in item.requests if one.at > act.at), default=history.end)
        again = min([again, *(one.at for one in item.acts if one.event == "reopened" and one.at > act.at)])
        stop = delayed(act.at, promises.stop, history, promises)
        for push in item.pushes:
            if stop < push.at < again:
                late = (push.at - act.at).total_seconds()
                yield Violation("pushed late", item.key, push.at, f"{late:.1f} s after {act.event}")
        gone = stop + timedelta(seconds=promises.grace)
        for run in item.runs:
            for pod in run.pods:
                ended = pod.ended or history.end
                if pod.started < act.at and gone < ended and gone < again:
                    late = (ended - act.at).total_seconds()
                    text = f"pod {pod.name} worked for {late:.0f} s after {act.event}"
                    yield Violation("stopped late", item.key, act.at, text)
                elif act.at < stop < pod.started < again:
                    text = f"pod {pod.name} was started after {act.event}"
                    yield Violation("stopped late", item.key, pod.started, text)
        for run in item.runs:
            ended = run.ended or history.end
            if run.created < act.at and delayed(gone, promises.show, history, promises) < min(ended, again):
                seconds = (ended - act.at).total_seconds()
                text = f"run {run.number} went on for {seconds:.0f} s after {act.event}"
                yield Violation("stopped late", item.key, act.at, text)
        if act.event not in CLOSING and _is_idle(item, act.at, stop):
            continue  # there is nothing to cancel, so what the comment shows of rounds goes on
        shown = gone + timedelta(seconds=promises.show)
        for written in item.acts:
            if written.actor == promises.bot and written.event in _WRITING and shown < written.at < again:
                late = (written.at - act.at).total_seconds()
                text = f"{written.event} by the bot {late:.0f} s after {act.event}"
                yield Violation("written after the end", item.key, written.at, text)


def _is_idle(item: Item, at: datetime, stop: datetime) -> bool:
    """Whether all runs that people had asked for by then had ended, or ended by themselves before `stop`."""
    before = [run for run in item.runs if run.created <= at]
    ends = [
        run.ended
        for run in before
        if run.ended is not None and (run.ended < at or (run.ended <= stop and run.phase != "Cancelled"))
    ]
    if not ends or len(ends) < len(before):
        return False
    return not any(max(ends) < request.at <= at for request in item.requests)


def _comments_and_changes(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """The bot writes one comment with its state on an item, and has one open change for it."""
    ours = [act for act in item.acts if act.actor == promises.bot and act.event == "commented"]
    states = [act for act in ours if shown_state(act.body) is not None]
    if len({act.comment for act in states}) > 1:
        yield Violation("comments", item.key, states[1].at, f"the bot wrote {len(states)} comments")
    if item.key.kind != "issue":
        return
    mine = {
        act.item: act
        for act in history.acts
        if act.event == "opened"
        and act.actor == promises.bot
        and act.item is not None
        and act.item[:2] == item.key[:2]
        and is_branch_of(act.branch, item.key, promises)
    }
    closed = {act.item: act.at for act in history.acts if act.event in CLOSING}
    opened = sorted(mine.values(), key=lambda act: act.at)
    for before, after in pairwise(opened):
        if closed.get(before.item, history.end) > after.at:
            yield Violation("changes", item.key, after.at, "the bot opened a second change for it")


def _disagreement(item: Item, history: History, promises: Promises) -> Iterator[Violation]:
    """At the end, labels, comment and the last run agree."""
    touched = max((act.at for act in item.acts if act.actor != promises.bot), default=history.end)
    last_change = max([touched, *(at for run in item.runs for at, _ in run.phases)])
    settled = is_old(delayed(last_change, 0, history, promises), history, promises)
    if not item.runs or not settled or any(act.event == "deleted" for act in item.acts):
        return
    run = item.runs[-1]
    said = [
        state
        for act in item.acts
        if act.actor == promises.bot
        and act.event in ("commented", "comment_edited")
        and (state := shown_state(act.body)) is not None
    ]
    name = f"run {run.number} is {run.phase}"
    if not said:
        yield Violation("disagreement", item.key, last_change, f"{name}: no comment")
    elif (said[-1].phase, said[-1].number) != (run.phase, run.number):
        text = f"{name}, and the comment says that run {said[-1].number} is {said[-1].phase}"
        yield Violation("disagreement", item.key, last_change, text)
    if run.ended is None:
        return
    labels = _labels(item.acts)
    # The forges' times are whole seconds: what people do in the second of the end may come before or after.
    second = run.ended.replace(microsecond=0)
    by_people = {act.label for act in item.acts if act.actor != promises.bot and act.at >= second}
    left = labels & (promises.triggers | {promises.processing}) - by_people
    if run.phase == "Succeeded":
        wrong = promises.done not in labels | by_people
    else:
        wrong = promises.done in labels - by_people
    if wrong or left or promises.processing in labels - by_people:
        yield Violation("disagreement", item.key, last_change, f"{name}, and the item shows {sorted(labels)}")


def _labels(acts: Iterable[Act]) -> set[str]:
    shown: set[str] = set()
    for act in acts:
        if act.event == "labeled":
            shown.add(act.label)
        elif act.event == "unlabeled":
            shown.discard(act.label)
    return shown


def _limits(history: History, promises: Promises) -> Iterator[Violation]:
    """As many pods work at any instant as the limits allow."""
    moments: list[tuple[datetime, int, ItemKey]] = []
    for runs in history.runs.values():
        for run in runs:
            for pod in run.pods:
                moments += [(pod.started, 1, run.item), (pod.ended or history.end, -1, run.item)]
    working = 0
    by_repository: Counter[tuple[str, str]] = Counter()
    for at, change, item in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        working += change
        by_repository[item[:2]] += change
        if change < 0:
            continue
        if promises.global_limit is not None and working > promises.global_limit:
            yield Violation(
                "limit", item, at, f"{working} attempts worked, {promises.global_limit} are allowed"
            )
        limit = promises.repository_limit
        if limit is not None and by_repository[item[:2]] > limit:
            text = f"{by_repository[item[:2]]} attempts worked in its repository, {limit} are allowed"
            yield Violation("limit", item, at, text)


def _budgets(history: History, promises: Promises) -> Iterator[Violation]:
    """All runs of a repository together cost no more than its budget, if the records show what they cost."""
    if promises.repository_budget is None:
        return
    moments = [
        (at, amount, run) for runs in history.runs.values() for run in runs for at, amount in run.spent
    ]
    spent: dict[tuple[str, str], dict[str, Decimal]] = {}
    allowed = promises.repository_budget + promises.answer_cost
    for at, amount, run in sorted(moments, key=lambda moment: moment[0]):
        by_run = spent.setdefault(run.item[:2], {})
        before = sum(by_run.values())
        by_run[run.name] = amount
        total = sum(by_run.values())
        if before <= allowed < total:
            text = f"its repository has spent {total}, {promises.repository_budget} are allowed"
            yield Violation("budget", run.item, at, text)


def _unstored(history: History, items: Iterable[Item], promises: Promises) -> Iterator[Violation]:
    """An application whose delivery was answered with 2xx is stored by then.

    It is a run, or, if the item has a task, a request on that task to read the item.

    After a forge's clock was set back, its times do not tell a new application from an old one, so the
    delivery can be answered as a duplicate. If no run follows, the label is `lost` all the same.
    """
    if not history.has_pods:
        return
    by_key = {item.key: item for item in items}
    for delivery in history.deliveries:
        applies = delivery.event == "labeled" and delivery.label in promises.triggers
        item = by_key.get(delivery.item)
        if not applies or item is None or not 200 <= delivery.status < 300:
            continue
        asked = [request.at for request in item.requests if request.at <= delivery.at]
        if not asked or any(asked[-1] <= act.at <= delivery.at for act in item.withdrawals):
            continue
        if any(fault.sets_back(delivery.at) for fault in history.faults):
            continue
        stored = [
            run
            for run in item.runs
            if run.created <= delivery.at
            and (run.ended is None or run.ended >= asked[-1].replace(microsecond=0))
        ]
        since = asked[-1].replace(microsecond=0)
        is_to_be_read = any(since <= at <= delivery.at for run in item.runs for at in run.rescans)
        if not stored and not is_to_be_read:
            text = "answered 2xx, and there was neither a task nor a request to read the item"
            yield Violation("unstored", delivery.item, delivery.at, text)
