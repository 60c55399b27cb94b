"""Which runs the records show: in the AgentTasks of the audit log, or in the versions of the bot's comment.

Like the judge, it imports nothing of the product. `writes` and `pods` know Kubernetes only, so that a reader
for another system's custom resource can use them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from tests.chaos.history import (
    Attempt,
    ItemKey,
    Job,
    Pod,
    Reader,
    Record,
    Result,
    Round,
    Run,
    Shown,
    time_of,
)

_STATE = re.compile(r"<!-- coding-agent:status (\{[^\n]*?\}) -->")
_POD_OVER = frozenset({"Succeeded", "Failed"})


class Write(NamedTuple):
    """A write that the API server has answered with success.

    Attributes:
        name: with the namespace.
        verb: `create`, `patch`, `update` or `delete`.
        request, body: of the object as it was sent, and as it was answered; empty if the log has none.
        began: when the API server got the request. Others may see the object's new state from then on, some
            time before the answer is logged.
    """

    at: datetime
    name: str
    verb: str
    subresource: str
    request: Mapping[str, Any]
    body: Mapping[str, Any]
    began: datetime

    @property
    def created(self) -> datetime:
        """When the object was created, as far as this write shows it.

        An API server that is killed between the storing and the logging of an object logs no creation. The
        object's next write shows its time, in whole seconds.
        """
        told = self.body.get("metadata", {}).get("creationTimestamp")
        return self.at if self.verb == "create" or not told else time_of(told)


def writes(records: Iterable[Record], resource: str) -> Iterator[Write]:
    """The writes of a resource's objects, in the order in which they were stored.

    Answers may be logged in another order than that of the writes. The older ones of an object are left out,
    unless they were asked for only after the newer one was answered: then their version says nothing.
    """
    newest: dict[str, tuple[int, datetime]] = {}
    for write in _logged(records, resource):
        version = int((write.body.get("metadata") or {}).get("resourceVersion") or 0)
        known, at = newest.get(write.name, (0, write.at))
        if version and version < known and write.began <= at:
            continue
        if write.verb != "create":  # which has the oldest version, even if the log got it later
            newest[write.name] = (version or known, write.at)
        yield write


def _logged(records: Iterable[Record], resource: str) -> Iterator[Write]:
    """The writes of a resource's objects, in the order in which they were logged."""
    events = [one for one in records if one["record"] == "audit"]
    for event in sorted(events, key=lambda event: str(event.get("stageTimestamp"))):
        about = event.get("objectRef") or {}
        done = event.get("stage") == "ResponseComplete"
        if not done or about.get("resource") != resource or event["verb"] not in _WRITES:
            continue
        if not 200 <= (event.get("responseStatus") or {}).get("code", 0) < 300:
            continue
        body = event.get("responseObject") or {}
        if body.get("kind") == "Status":  # the answer has no object, for example that of an eviction
            body = {}
        metadata = body.get("metadata") or {}
        name = f"{about.get('namespace', '')}/{about.get('name') or metadata.get('name')}"
        yield Write(
            time_of(event["stageTimestamp"]),
            name,
            event["verb"],
            about.get("subresource") or "",
            event.get("requestObject") or {},
            body,
            time_of(event.get("requestReceivedTimestamp") or event["stageTimestamp"]),
        )


_WRITES = ("create", "patch", "update", "delete")


def pods(records: Iterable[Record], owner_of: Callable[[Mapping[str, str]], str | None]) -> dict[str, Pod]:
    """The pods that belong to runs, by name.

    Args:
        owner_of: the name of the run to which a pod with these labels belongs, without its namespace.
    """
    found: dict[str, Pod] = {}
    for write in writes(records, "pods"):
        known = found.get(write.name)
        if known is None:
            owner = owner_of((write.body.get("metadata") or {}).get("labels") or {})
            if owner is None or write.verb == "delete":
                continue
            namespace, _, name = write.name.partition("/")
            labels = (write.body.get("metadata") or {}).get("labels") or {}
            known = Pod(
                name,
                f"{namespace}/{owner}",
                write.created,
                attempt=int(_label(labels, "attempt") or 0),
                checks=bool(_label(labels, "verify")),
            )
        phase = (write.body.get("status") or {}).get("phase")
        if known.succeeded is None and phase in _POD_OVER:
            known = replace(known, succeeded=phase == "Succeeded")
        if known.ended is None and _has_ended(write):
            known = replace(known, ended=write.at)
        found[write.name] = known
    return found


def strays(records: Sequence[Record], runs: Sequence[Run]) -> tuple[Pod | Job, ...]:
    """The pods and Jobs that say that they belong to a run, and that none of these runs has."""
    known, names = {pod.name for run in runs for pod in run.pods}, {run.name for run in runs}
    lone = [pod for pod in pods(records, _task_of).values() if pod.name not in known]
    return (*lone, *(job for job in _jobs(records) if job.task.rpartition("/")[2] not in names))


def undeleted(records: Sequence[Record]) -> Iterator[tuple[datetime, str]]:
    """The pods and Jobs of runs that are being deleted although nobody has asked for it, and since when."""
    for resource, kind in (("pods", "pod"), ("jobs", "Job")):
        known: set[str] = set()
        # A patch that the API server got before the deletion can be stored after it.
        found = sorted(_logged(records, resource), key=_deletion_first)
        for write in found:
            metadata = write.body.get("metadata") or {}
            if _asks_for_deletion(write):
                known.add(write.name)
            elif metadata.get("deletionTimestamp") and write.name not in known:
                known.add(write.name)
                if _task_of(metadata.get("labels") or {}):
                    yield write.at, f"{kind} {write.name.partition('/')[2]}"


def _asks_for_deletion(write: Write) -> bool:
    return write.verb == "delete" or write.subresource == "eviction"


def _deletion_first(write: Write) -> tuple[datetime, bool]:
    """For sorting: when a deletion can first have had its effect, and when another write was answered."""
    return (write.began, False) if _asks_for_deletion(write) else (write.at, True)


def _jobs(records: Sequence[Record]) -> Iterator[Job]:
    seen: set[str] = set()
    for write in writes(records, "jobs"):
        labels = (write.body.get("metadata") or {}).get("labels") or {}
        task = _task_of(labels)
        if task is None or write.name in seen or write.verb == "delete" or _label(labels, "verify"):
            continue
        seen.add(write.name)
        namespace, _, name = write.name.partition("/")
        yield Job(name, f"{namespace}/{task}", write.created, int(_label(labels, "attempt") or 0))


def _label(labels: Mapping[str, str], name: str) -> str:
    """The value of the label with this name, whatever its prefix; empty if there is none."""
    return next((value for key, value in labels.items() if key.endswith(f"/{name}")), "")


def _has_ended(write: Write) -> bool:
    """Whether the write ends a pod: its containers have ended, or it was removed at once.

    The kubelet removes a pod with no grace time once its containers have ended, and the API server does so
    with one that never got to a node.
    """
    if write.verb != "delete":
        return (write.body.get("status") or {}).get("phase") in _POD_OVER
    left = (write.body.get("metadata") or {}).get("deletionGracePeriodSeconds")
    never_placed = "spec" in write.body and "nodeName" not in write.body["spec"]
    return write.request.get("gracePeriodSeconds") == 0 or left == 0 or never_placed


def agent_task_runs(records: Sequence[Record]) -> Iterator[Run]:
    """The runs of AgentTasks, with their pods."""
    runs: dict[str, Run] = {}
    specs: dict[str, Mapping[str, Any]] = {}
    for write in writes(records, "agenttasks"):
        spec = _fixed(write)
        if write.name not in runs:
            if "source" not in spec:
                continue
            runs[write.name], specs[write.name] = _task(write), spec
        run = _with_spec(_with_status(runs[write.name], write), write)
        if spec and spec != specs[write.name] and run.altered is None:
            run = replace(run, altered=write.at)
        runs[write.name] = run
    jobs: dict[str, list[Job]] = {}
    for job in _jobs(records):
        jobs.setdefault(job.task, []).append(job)
    runs = {name: replace(run, jobs=tuple(jobs.get(name, ()))) for name, run in runs.items()}
    yield from with_pods(runs, pods(records, _task_of))


def with_pods(runs: Mapping[str, Run], found: Mapping[str, Pod]) -> Iterator[Run]:
    """The runs with those of the pods that are theirs; both by their names with the namespace."""
    by_run: dict[str, list[Pod]] = {}
    for pod in found.values():
        by_run.setdefault(pod.task, []).append(pod)
    for name, run in runs.items():
        yield replace(run, pods=tuple(by_run.get(name, ())))


def entered(run: Run, at: datetime, phase: str, *, began: datetime | None = None) -> Run:
    """The run after it entered a phase, or still is in it.

    Args:
        began: when others may have seen the phase first; `None`: at the same time.
    """
    if [known for _, known in run.phases[-1:]] == [phase]:
        return run
    return replace(run, phases=(*run.phases, (at, phase)), stored=(*run.stored, began or at))


def _task_of(labels: Mapping[str, str]) -> str | None:
    return _label(labels, "task") or None


def _task(write: Write) -> Run:
    spec = write.body["spec"]
    source = spec["source"]
    item = ItemKey(source["host"], source["repository"], source["kind"], source["number"])
    metadata = write.body["metadata"]
    return Run(
        item,
        metadata["name"],
        spec.get("run", 1),
        write.created,
        round=_round_asked((spec.get("trigger") or {}).get("round")),
        user=spec.get("user") or "",
        platform=source.get("platform") or "",
        max_attempts=spec.get("maxAttempts") or 0,
        identifier=metadata.get("uid") or "",
    )


def _fixed(write: Write) -> Mapping[str, Any]:
    """What may not change of the spec of an AgentTask that a receiver has created."""
    spec = write.body.get("spec") or {}
    return {name: value for name, value in spec.items() if name not in ("cancel", "suspend", "priority")}


def _with_spec(run: Run, write: Write) -> Run:
    """With what a write says besides the status."""
    if write.verb == "delete":
        return replace(run, deleted=write.at)
    if "spec" in write.body:
        is_suspended = bool(write.body["spec"].get("suspend"))
        was_suspended = bool(run.suspended) and run.suspended[-1][1] is None
        if is_suspended and not was_suspended:
            run = replace(run, suspended=(*run.suspended, (write.at, None)))
        elif was_suspended and not is_suspended:
            run = replace(run, suspended=(*run.suspended[:-1], (run.suspended[-1][0], write.began)))
    if _asks_to_read(write):
        run = replace(run, rescans=(*run.rescans, write.at))
    notes = (write.body.get("metadata") or {}).get("annotations") or {}
    return replace(run, duplicate_of=_label(notes, "duplicate-of") or run.duplicate_of)


def _asks_to_read(write: Write) -> bool:
    """Whether the write itself stores a request to read the labels of the task's item again."""
    # A JSON patch is a list. The operator writes these, and a request is a merge patch.
    if write.verb != "patch" or not isinstance(write.request, dict):
        return False
    notes = (write.request.get("metadata") or {}).get("annotations") or {}
    return bool(json.loads(_label(notes, "rescan") or "{}").get("labels"))


def _round_asked(trigger: Mapping[str, Any] | None) -> Round | None:
    """The cause for which a round was created: a JSON list of its kind, a head, its ids, and a number."""
    if trigger is None:
        return None
    kind, _, *ids, _ = json.loads(trigger["cause"])
    return Round(kind, trigger["head"], frozenset(ids))


def _round_done(asked: Round, done: Mapping[str, Any]) -> Round:
    """What a round worked on. It decides again when it starts, so that may be another cause."""
    ids = frozenset(done["keys"])
    if done["kind"] == "checks":  # whose names are hashed
        ids = asked.ids if (asked.kind, asked.head) == ("checks", done["before"]) else frozenset()
    return Round(done["kind"], done["before"], ids, done["end"])


def _with_status(run: Run, write: Write) -> Run:
    # A create stores no status. If the body has one, somebody has read it when the run was over.
    status = {} if write.verb == "create" else write.body.get("status") or {}
    if status.get("phase"):
        run = entered(run, write.at, status["phase"], began=write.began)
        run = replace(run, reason=status.get("reason") or "", result=_result(status.get("result") or {}))
        if "attempts" in status or run.attempts is not None:
            run = replace(run, attempts=tuple(map(_attempt, status.get("attempts") or ())))
    done = (status.get("result") or {}).get("round")
    if done is not None and run.round is not None:
        run = replace(run, round=_round_done(run.round, done))
    spent = sum((_cost(attempt) for attempt in status.get("attempts") or []), Decimal(0))
    if spent and [known for _, known in run.spent[-1:]] != [spent]:
        run = replace(run, spent=(*run.spent, (write.at, spent)))
    return run


def _result(result: Mapping[str, Any]) -> Result:
    return Result(result.get("branch") or "", result.get("changeURL") or "", result.get("commit") or "")


def _attempt(attempt: Mapping[str, Any]) -> Attempt:
    usage = attempt.get("usage")
    return Attempt(
        attempt["number"],
        time_of(attempt["startTime"]),
        attempt.get("outcome") or "",
        attempt.get("reason") or "",
        attempt.get("counted", True),
        None if usage is None else _tokens(usage),
    )


def _tokens(usage: Mapping[str, Any]) -> int:
    return sum(value for name, value in usage.items() if name.endswith("okens") and isinstance(value, int))


def _cost(attempt: Mapping[str, Any]) -> Decimal:
    return Decimal(((attempt.get("usage") or {}).get("cost") or {}).get("amount", "0"))


def comment_runs(bot: str) -> Reader:
    """A reader of the versions of the bot's comment: without Kubernetes nothing else stores the runs.

    Args:
        bot: the login of the system's account.
    """
    return partial(_comment_runs, bot)


def _comment_runs(bot: str, records: Sequence[Record]) -> Iterator[Run]:
    runs: dict[tuple[ItemKey, str], Run] = {}
    written = [one for one in records if one["record"] == "forge" and one["actor"] == bot]
    for record in sorted(written, key=lambda one: time_of(one["at"])):
        state = _state(record.get("body") or "")
        if state is None or record.get("number") is None:
            continue
        item = ItemKey(record["host"], record["repository"], record["kind"], record["number"])
        at, key = time_of(record["at"]), (item, str(state["uuid"]))
        # A task that only waited while another message took its place was never a run.
        for other in [one for one in runs if one[0] == item and one != key]:
            if {phase for _, phase in runs[other].phases} == {"Queued"}:
                del runs[other]
        run = runs.get(key) or Run(item, f"{item} {key[1]}", state.get("run", 1), at, identifier=key[1])
        runs[key] = replace(
            entered(run, at, state["phase"]),
            reason=state.get("reason") or "",
            user=state.get("user") or "",
            result=Result(state.get("branch") or "", state.get("change_url") or ""),
        )
    yield from runs.values()


def shown_state(body: str) -> Shown | None:
    """What the hidden line of a comment says; `None`: there is none."""
    state = _state(body)
    if state is None:
        return None
    return Shown(
        state["phase"],
        state.get("run", 1),
        state.get("uuid") or "",
        state.get("change_url") or "",
        state.get("branch") or "",
        tuple((one.rsplit(" ", 2)[0], one.rsplit(" ", 2)[1]) for one in state.get("statuses") or ()),
    )


def _state(body: str) -> Mapping[str, Any] | None:
    found = _STATE.search(body)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None
