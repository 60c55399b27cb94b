"""What happened in one run of the system, from the records of others: the forge and the API server.

It imports nothing of the product, so that an error in the product's own types cannot hide itself. A record
is a JSON object on a line of its own:

    {"record": "forge", "host": "github.test", …an event of the forge's log…}
    {"record": "delivery", "at": …, "host": …, "repository": …, "kind": …, "number": …, "event": "labeled",
     "label": …, "status": 200}
    {"record": "audit", …an event of the API server's audit log, with bodies…}
    {"record": "fault", "id": 3, "kind": "kill operator", "start": …, "end": …}

Times are ISO 8601 by one clock, that of the machine which recorded them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})
_STATE = re.compile(r"<!-- coding-agent:status (\{[^\n]*?\}) -->")
_POD_OVER = frozenset({"Succeeded", "Failed"})


class ItemKey(NamedTuple):
    """An issue (`issue`) or a pull or merge request (`change`) of a forge."""

    host: str
    repository: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.host}/{self.repository} {self.kind} {self.number}"


@dataclass(frozen=True)
class Act:
    """Something that a person or the bot did on the forge; the fields are those of the forge's event log.

    Attributes:
        item: `None` for pushes.
        repository: with its host.
    """

    at: datetime
    event: str
    actor: str
    repository: tuple[str, str]
    item: ItemKey | None = None
    label: str = ""
    comment: int = 0
    body: str = ""
    branch: str = ""


@dataclass(frozen=True)
class Delivery:
    """A webhook's request and its answer.

    Attributes:
        at: when it was answered.
        status: 0: it was not answered.
    """

    at: datetime
    item: ItemKey
    event: str
    label: str
    status: int


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt.

    Attributes:
        ended: when its containers had ended or it was gone; `None`: it was there at the end of the history.
    """

    name: str
    task: str
    started: datetime
    ended: datetime | None = None


@dataclass(frozen=True)
class Run:
    """A task of an item.

    Attributes:
        number: of the run, from 1.
        phases: when it entered which phase.
    """

    item: ItemKey
    name: str
    number: int
    created: datetime
    phases: tuple[tuple[datetime, str], ...] = ()
    pods: tuple[Pod, ...] = ()

    @property
    def phase(self) -> str:
        return self.phases[-1][1] if self.phases else "Queued"

    @property
    def ended(self) -> datetime | None:
        """When it had ended; `None`: it has not."""
        return next((at for at, phase in self.phases if phase in ENDED), None)


@dataclass(frozen=True)
class Fault:
    """Something that was broken on purpose, from `start` to `end`."""

    id: int
    kind: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class History:
    """All of it, in the order of time.

    Attributes:
        runs: by item, in the order of their numbers.
        has_pods: whether the records show pods: not without Kubernetes.
    """

    acts: tuple[Act, ...]
    deliveries: tuple[Delivery, ...]
    runs: Mapping[ItemKey, tuple[Run, ...]]
    faults: tuple[Fault, ...]
    end: datetime
    has_pods: bool = True


def read_history(lines: Iterable[str], *, bot: str, end: datetime) -> History:
    """The history in these records.

    Args:
        bot: login of the system's account.
        end: when the records were taken.

    Raises:
        ValueError: a line is no record.
    """
    acts: list[Act] = []
    deliveries: list[Delivery] = []
    faults: list[Fault] = []
    audit: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            match record["record"]:
                case "forge":
                    acts.append(_act(record))
                case "delivery":
                    deliveries.append(_delivery(record))
                case "fault":
                    start, stop = _time(record["start"]), _time(record["end"])
                    faults.append(Fault(record["id"], record["kind"], start, stop))
                case "audit":
                    audit.append(record)
                case other:
                    raise ValueError(f"no record is called {other!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is no record: {error!r}") from error
    acts.sort(key=lambda act: act.at)
    deliveries.sort(key=lambda delivery: delivery.at)
    runs = _stored_runs(audit) if audit else _shown_runs(acts, bot)
    by_item: dict[ItemKey, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.number, run.created)):
        by_item.setdefault(run.item, []).append(run)
    return History(
        tuple(acts),
        tuple(deliveries),
        {item: tuple(found) for item, found in by_item.items()},
        tuple(faults),
        end,
        has_pods=bool(audit),
    )


def shown_state(body: str) -> Mapping[str, Any] | None:
    """The hidden line of the bot's comment; `None`: there is none."""
    found = _STATE.search(body)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None


def _act(record: Mapping[str, Any]) -> Act:
    item = None
    if record.get("number") is not None:
        item = ItemKey(record["host"], record["repository"], record["kind"], record["number"])
    return Act(
        _time(record["at"]),
        record["event"],
        record["actor"],
        (record["host"], record["repository"]),
        item,
        record.get("label") or "",
        record.get("comment") or 0,
        record.get("body") or "",
        record.get("branch") or "",
    )


def _delivery(record: Mapping[str, Any]) -> Delivery:
    item = ItemKey(record["host"], record["repository"], record["kind"], record["number"])
    return Delivery(_time(record["at"]), item, record["event"], record.get("label", ""), record["status"])


@dataclass
class _Task:
    """An AgentTask while the audit log is read."""

    run: Run
    phases: list[tuple[datetime, str]] = field(default_factory=list)


def _stored_runs(audit: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The runs and their pods, from what the API server has stored."""
    tasks: dict[str, _Task] = {}
    pods: dict[str, Pod] = {}
    for event in sorted(audit, key=lambda event: str(event["stageTimestamp"])):
        about = event.get("objectRef", {})
        body = event.get("responseObject") or {}
        if event["stage"] != "ResponseComplete" or event["responseStatus"]["code"] >= 300:
            continue
        at, name = _time(event["stageTimestamp"]), about.get("name") or body.get("metadata", {}).get("name")
        match about.get("resource"), event["verb"], about.get("subresource", ""):
            case "agenttasks", "create", "":
                tasks[name] = _Task(_created_run(body, at))
            case "agenttasks", ("patch" | "update"), "status" if name in tasks:
                phase = body.get("status", {}).get("phase", "")
                if phase and [known for _, known in tasks[name].phases[-1:]] != [phase]:
                    tasks[name].phases.append((at, phase))
            case "pods", "create", "":
                labels = body["metadata"].get("labels", {})
                owner = next((labels[label] for label in labels if label.endswith("/task")), None)
                if owner is not None:
                    pods[name] = Pod(name, owner, at)
            case "pods", ("patch" | "update"), "status" if name in pods and pods[name].ended is None:
                if body.get("status", {}).get("phase") in _POD_OVER:
                    pods[name] = replace(pods[name], ended=at)
            case "pods", "delete", "" if name in pods and pods[name].ended is None:
                # The kubelet deletes it with no grace time once its containers have ended.
                if (event.get("requestObject") or {}).get("gracePeriodSeconds") == 0:
                    pods[name] = replace(pods[name], ended=at)
    return [
        replace(
            task.run,
            phases=tuple(task.phases),
            pods=tuple(pod for pod in pods.values() if pod.task == name),
        )
        for name, task in tasks.items()
    ]


def _created_run(body: Mapping[str, Any], at: datetime) -> Run:
    source = body["spec"]["source"]
    item = ItemKey(source["host"], source["repository"], source["kind"], source["number"])
    return Run(item, body["metadata"]["name"], body["spec"].get("run", 1), at)


def _shown_runs(acts: Iterable[Act], bot: str) -> list[Run]:
    """The runs as the versions of the bot's comment show them: without Kubernetes nothing stores them."""
    runs: dict[tuple[ItemKey, str], Run] = {}
    for act in acts:
        state = shown_state(act.body) if act.actor == bot and act.item is not None else None
        if state is None or act.item is None:
            continue
        key = act.item, str(state["uuid"])
        known = runs.get(key) or Run(act.item, f"{act.item} {key[1]}", state.get("run", 1), act.at)
        if [phase for _, phase in known.phases[-1:]] != [state["phase"]]:
            known = replace(known, phases=(*known.phases, (act.at, state["phase"])))
        runs[key] = known
    return list(runs.values())


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
