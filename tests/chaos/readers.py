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

from tests.chaos.history import ItemKey, Pod, Reader, Record, Round, Run, Shown, time_of

_STATE = re.compile(r"<!-- coding-agent:status (\{[^\n]*?\}) -->")
_POD_OVER = frozenset({"Succeeded", "Failed"})


class Write(NamedTuple):
    """A write that the API server has answered with success.

    Attributes:
        name: with the namespace.
        verb: `create`, `patch`, `update` or `delete`.
        request, body: of the object as it was sent, and as it was answered; empty if the log has none.
    """

    at: datetime
    name: str
    verb: str
    subresource: str
    request: Mapping[str, Any]
    body: Mapping[str, Any]

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

    Answers may be logged in another order than that of the writes. The older ones of an object are left out.
    """
    events = [one for one in records if one["record"] == "audit"]
    newest: dict[str, int] = {}
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
        version = metadata.get("resourceVersion")
        if version is not None and int(version) < newest.get(name, 0):
            continue
        if event["verb"] != "create":  # which has the oldest version, even if the log got it later
            newest[name] = int(version or newest.get(name, 0))
        yield Write(
            time_of(event["stageTimestamp"]),
            name,
            event["verb"],
            about.get("subresource") or "",
            event.get("requestObject") or {},
            body,
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
            known = found[write.name] = Pod(name, f"{namespace}/{owner}", write.created)
        if known.ended is None and _has_ended(write):
            found[write.name] = replace(known, ended=write.at)
    return found


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
    for write in writes(records, "agenttasks"):
        if write.name not in runs:
            if "source" not in (write.body.get("spec") or {}):
                continue
            runs[write.name] = _task(write)
        runs[write.name] = _with_status(runs[write.name], write)
    yield from with_pods(runs, pods(records, _task_of))


def with_pods(runs: Mapping[str, Run], found: Mapping[str, Pod]) -> Iterator[Run]:
    """The runs with those of the pods that are theirs; both by their names with the namespace."""
    by_run: dict[str, list[Pod]] = {}
    for pod in found.values():
        by_run.setdefault(pod.task, []).append(pod)
    for name, run in runs.items():
        yield replace(run, pods=tuple(by_run.get(name, ())))


def entered(run: Run, at: datetime, phase: str) -> Run:
    """The run after it entered a phase, or still is in it."""
    if [known for _, known in run.phases[-1:]] == [phase]:
        return run
    return replace(run, phases=(*run.phases, (at, phase)))


def _task_of(labels: Mapping[str, str]) -> str | None:
    return next((value for name, value in labels.items() if name.endswith("/task")), None)


def _task(write: Write) -> Run:
    spec = write.body["spec"]
    source = spec["source"]
    item = ItemKey(source["host"], source["repository"], source["kind"], source["number"])
    asked = _round_asked((spec.get("trigger") or {}).get("round"))
    return Run(item, write.body["metadata"]["name"], spec.get("run", 1), write.created, round=asked)


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
        run = entered(run, write.at, status["phase"])
    done = (status.get("result") or {}).get("round")
    if done is not None and run.round is not None:
        run = replace(run, round=_round_done(run.round, done))
    spent = sum((_cost(attempt) for attempt in status.get("attempts") or []), Decimal(0))
    if spent and [known for _, known in run.spent[-1:]] != [spent]:
        run = replace(run, spent=(*run.spent, (write.at, spent)))
    return run


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
        known = runs.get(key) or Run(item, f"{item} {key[1]}", state.get("run", 1), at)
        runs[key] = entered(known, at, state["phase"])
    yield from runs.values()


def shown_state(body: str) -> Shown | None:
    """What the hidden line of a comment says; `None`: there is none."""
    state = _state(body)
    return Shown(state["phase"], state.get("run", 1)) if state is not None else None


def _state(body: str) -> Mapping[str, Any] | None:
    found = _STATE.search(body)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None
