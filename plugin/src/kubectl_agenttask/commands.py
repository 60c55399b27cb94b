"""The subcommands: each reads, decides, writes and prints."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from coding_agent_core.admission import free_run, latest_of, runs_of
from coding_agent_core.agenttask import LABEL_DEFAULTED, AgentTask, Spec, UnreadableTaskError, manifest
from coding_agent_core.objects import Metadata
from coding_agent_core.registry import FACTS, Platform
from coding_agent_core.tasks import Item, Origin, RunnerName, TaskRequest, Trigger, item_of
from rich.console import Console

from kubectl_agenttask import DeniedError, PluginError, UsageError, tables
from kubectl_agenttask.cluster_client import (
    HOSTS_CONTAINER,
    HOSTS_DEADLINE,
    Body,
    ClusterAccess,
    attempt_of_pod,
    choose,
    has_started,
    hosts_pod,
    waiting_for,
)
from kubectl_agenttask.tables import show_facts, show_table

_POLL = 1.0
"""Seconds between two reads of a pod."""
_LONGEST_WAIT = 600.0
"""Maximum number of seconds that `logs -f` waits for a pod to start."""


@dataclass(frozen=True)
class Session:
    """The cluster that commands read, and the places to which they write.

    Attributes:
        out: receives the result.
        notes: receives messages for the person that are not part of the result.
        raw: receives logs, byte for byte.
    """

    cluster: ClusterAccess
    out: Console
    notes: Console
    raw: BinaryIO
    clock: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def list_tasks(session: Session, arguments: Namespace) -> None:
    """`list`: print a row for each task."""
    found = list(
        session.cluster.tasks(
            everywhere=arguments.all_namespaces, active=arguments.active, repository=arguments.repo
        )
    )
    where = "in any namespace" if arguments.all_namespaces else f"in namespace {session.cluster.namespace}"
    if not found:
        selected = " that match" if arguments.active or arguments.repo else ""
        session.notes.print(f"No agenttasks{selected} {where}.")
        return
    now = session.clock()
    if not arguments.all_namespaces:
        show_table(session.out, tables.COLUMNS, tables.task_rows((task.body for task in found), now))
        return
    rows = [
        (space, *row)
        for space in sorted({task.namespace for task in found})
        for row in tables.task_rows((task.body for task in found if task.namespace == space), now)
    ]
    show_table(session.out, ("NAMESPACE", *tables.COLUMNS), rows)


def spend(session: Session, arguments: Namespace) -> None:
    """`spend`: print the usage of attempts since a day, by repository, user or model."""
    since: datetime = arguments.since or session.clock().replace(hour=0, minute=0, second=0, microsecond=0)
    found = session.cluster.tasks(
        everywhere=arguments.all_namespaces, active=False, repository=arguments.repo
    )
    rows = tables.spent_rows((task.body for task in found), arguments.by, since)
    if not rows:
        session.notes.print(f"No attempt whose usage is known has ended since {since:%Y-%m-%d}.")
        return
    show_table(session.out, (arguments.by.upper(), *tables.SPENT), rows)


def describe(session: Session, arguments: Namespace) -> None:
    """`describe`: print everything about one task."""
    task, now = session.cluster.task(arguments.name).body, session.clock()
    show_facts(session.out, tables.facts(task, now))
    parts = [
        ("Conditions", tables.CONDITIONS, tables.condition_rows(task, now)),
        ("Attempts", tables.ATTEMPTS, tables.attempt_rows(task)),
        ("Hosts denied by the egress proxy", tables.DENIED, tables.denied_rows(task)),
        ("Models", tables.MODELS, tables.model_rows(task)),
        ("Transcripts", tables.TRANSCRIPTS, tables.transcript_rows(task)),
    ]
    try:
        events = session.cluster.events(arguments.name)
    except DeniedError as error:
        session.notes.print(f"Events are not shown: {error}")
    else:
        parts.append(("Events", tables.EVENTS, tables.event_rows(events, now)))
    for title, columns, rows in parts:
        if rows:
            session.out.print(f"\n{title}:")
            show_table(session.out, columns, rows)
    if hint := tables.no_operator_hint(task, now):
        session.notes.print(f"\n{hint}", soft_wrap=True)
    steps = tables.last_steps(task)
    if steps is not None:
        session.out.print(f"\nLast steps of attempt {steps[0]}:")
        for line in steps[1]:
            session.out.print(f"  {line}", soft_wrap=True)


def logs(session: Session, arguments: Namespace) -> None:
    """`logs`: print the log of an attempt's container."""
    pod = _pod(session, arguments)
    name = Metadata.of(pod).name
    session.notes.print(f"Attempt {attempt_of_pod(pod)}, pod {name}, container {arguments.container}:")
    for chunk in session.cluster.log(name, arguments.container, follow=arguments.follow):
        session.raw.write(chunk)
        session.raw.flush()


def _pod(session: Session, arguments: Namespace) -> Body:
    """Return the pod whose log to print; with `--follow`, wait until it has a log."""
    end, said = session.monotonic() + _LONGEST_WAIT, ""
    while True:
        task = session.cluster.task(arguments.name)
        pod = choose(session.cluster.pods(arguments.name), arguments.attempt)
        if pod is not None and has_started(pod, arguments.container):
            return dict(pod)
        why = f"its pod waits: {waiting_for(pod)}" if pod is not None else _no_pod(task)
        problem = f"{arguments.name} has no log at the moment: {why}."
        if not arguments.follow or task.over or session.monotonic() > end:
            hint = "" if arguments.follow or task.over else " With -f this command waits."
            raise PluginError(problem + hint)
        if why != said:
            session.notes.print(f"Waiting: {why}")
            said = why
        session.sleep(_POLL)


def _no_pod(task: AgentTask) -> str:
    position = task.status.queue_position
    place = f", position {position}" if position else ""
    return f"it is {tables.phase(task.body)}{place}, and has no pod{_left(task) if task.over else ''}"


def _left(task: AgentTask) -> str:
    """Say where to look when the pods of a task are gone."""
    kept = tables.transcript_rows(task.body)
    if kept:
        _, place, link = kept[-1]
        return f"; its pods are gone, its transcript is at {link or place}"
    if tables.last_steps(task.body) is not None:
        return f"; its pods are gone, `kubectl agenttask describe {task.name}` shows its last steps"
    return "; its pods are gone, read them in your log store"


def cancel(session: Session, arguments: Namespace) -> None:
    """`cancel`: stop a task."""
    task = _not_ended(session, arguments.name, "there is nothing to cancel")
    if _has(task, "cancel"):
        session.notes.print(f"{arguments.name} is already being cancelled.")
        return
    session.cluster.patch_spec(arguments.name, cancel=True)
    session.out.print(f"agenttask {arguments.name} is being cancelled")


def suspend(session: Session, arguments: Namespace) -> None:
    """`suspend`: suspend a task until it is resumed."""
    task = _not_ended(session, arguments.name, "there is nothing to suspend")
    if _has(task, "suspend"):
        session.notes.print(f"{arguments.name} is suspended already.")
        return
    session.cluster.patch_spec(arguments.name, suspend=True)
    session.out.print(f"agenttask {arguments.name} suspended")


def resume(session: Session, arguments: Namespace) -> None:
    """`resume`: resume a suspended task."""
    task = _not_ended(session, arguments.name, f"`kubectl agenttask retry {arguments.name}` starts a new run")
    if not _has(task, "suspend"):
        session.notes.print(f"{arguments.name} is not suspended.")
        return
    session.cluster.patch_spec(arguments.name, suspend=False)
    session.out.print(f"agenttask {arguments.name} resumed")


_OF_ONE_TASK = (
    "source",
    "user",
    "title",
    "url",
    "trigger",
    "run",
    "trusted",
    "cancel",
    "suspend",
    "priority",
)
OPTIONS = tuple(str(field.alias) for name, field in Spec.model_fields.items() if name not in _OF_ONE_TASK)
"""The fields of a task's spec that its next run keeps."""


def retry(session: Session, arguments: Namespace) -> None:
    """`retry`: create the next run of a task's item, with the same options."""
    earlier = session.cluster.task(arguments.name)
    try:
        spec = earlier.spec
    except UnreadableTaskError as error:
        raise PluginError(f"{arguments.name} was stored by another release: {error.why}") from error
    request = spec.request.model_copy(update={"trigger": _by_hand(session)})
    task = _next_task(session, request)
    given = earlier.body["spec"]
    task["spec"] |= {name: given[name] for name in OPTIONS if name in given}
    _create(session, task, spec.priority if arguments.priority is None else arguments.priority)


def run(session: Session, arguments: Namespace) -> None:
    """`run`: create a task for an issue, pull request or merge request, without a label."""
    try:
        platform = None if arguments.platform is None else Platform(arguments.platform)
        item = item_of(arguments.url, arguments.project_id, platform=platform)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if FACTS[item.platform].by_project_id and item.project_id is None:
        session.notes.print(
            "Without --project-id this task does not count as a run of the item that a label starts: both "
            f"can run at the same time. {FACTS[item.platform].project_id_help}"
        )
    request = TaskRequest(
        item=item,
        user=arguments.user,
        url=arguments.url.strip(),
        trigger=_by_hand(session),
        runner=None if arguments.runner is None else RunnerName(arguments.runner),
    )
    task = _next_task(
        session,
        request,
        timeout_seconds=arguments.timeout_seconds,
        max_attempts=arguments.max_attempts,
        model=arguments.model,
        instructions=arguments.instructions,
    )
    if arguments.budget is not None:
        task["spec"]["budget"] = arguments.budget.to_wire()
    if arguments.ttl is not None:
        task["spec"]["ttlSecondsAfterFinished"] = arguments.ttl
    _create(session, task, arguments.priority or 0)


def _next_task(session: Session, request: TaskRequest, **options: Any) -> dict[str, Any]:
    """Return the manifest of the item's next run. Limits that are `None` are the operator's defaults."""
    listed = session.cluster.runs(request.item)
    run_number, waits_for = _next_run(request.item, listed)
    if waits_for:
        session.notes.print(f"The new task starts when {waits_for}, which is being cancelled, has ended.")
    return manifest(request, run=free_run(request.item, run_number, listed), **options)


def _create(session: Session, task: dict[str, Any], priority: int) -> None:
    if not {"timeoutSeconds", "maxAttempts"} <= set(task["spec"]):
        # Without this label, the operator adopts the task: it fills in its own limits and adds the label.
        del task["metadata"]["labels"][LABEL_DEFAULTED]
    if priority:
        task["spec"]["priority"] = priority
    session.cluster.create(task)
    session.out.print(f"agenttask {Metadata.of(task).name} created")


def _next_run(item: Item, listed: list[AgentTask]) -> tuple[int, str | None]:
    """Return the number of the next run, and the name of the run that must end before it, if any."""
    latest = latest_of(runs_of(item, listed))
    if latest is None:
        return 1, None
    if latest.terminal:
        return latest.run + 1, None
    if latest.cancel_requested:
        return latest.run + 1, latest.name
    raise PluginError(
        f"{latest.name} is working on {item.display}: follow it with "
        f"`kubectl agenttask logs -f {latest.name}`, or `kubectl agenttask cancel {latest.name}` first."
    )


def _by_hand(session: Session) -> Trigger:
    return Trigger(origin=Origin.MANUAL, cause=None, received_at=session.clock())


def _not_ended(session: Session, name: str, hint: str) -> AgentTask:
    task = session.cluster.task(name)
    if task.over:
        raise PluginError(f"{name} has ended ({tables.phase(task.body)}): {hint}.")
    return task


def _has(task: AgentTask, field: str) -> bool:
    """Whether a field of the spec is set. The rest of the spec may be from another release."""
    return bool((task.body.get("spec") or {}).get(field))


_CANNOT_START = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError", "RunContainerError"}
)
_HOST = re.compile(r"^    - ([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?)$", re.MULTILINE)
_NO_SHELL = 128
"""The exit status with which the container runtime reports that it cannot start `sh`."""


def hosts(session: Session, arguments: Namespace) -> None:
    """`hosts`: print the hosts from which an image's package managers fetch, as values of the chart.

    A short-lived pod with the image asks the package managers (`hosts.sh`). It has no credential, no token of
    a ServiceAccount, and no file of a repository, because such a file could name any host.

    Raises:
        PluginError: the pod cannot run, or the image names no host.
    """
    image: str = arguments.image
    name = session.cluster.create_pod(hosts_pod(image, arguments.pull_secret))
    session.notes.print(f"Pod {name} asks the package managers of {image}.", soft_wrap=True)
    try:
        code = _wait(session, name, image)
        said = b"".join(session.cluster.log(name, HOSTS_CONTAINER, follow=False)).decode(errors="replace")
    finally:
        session.cluster.delete_pod(name)
    # The image's programs wrote the output, so we repeat nothing except names of hosts.
    found = sorted(set(_HOST.findall(said)))
    if not found:
        raise PluginError(
            f"the package managers of {image} name no host (exit status {code}). The image needs one of pip, "
            "npm, Go, cargo and apt."
        )
    session.out.print("\n".join(["egress:", "  allow:", *(f"    - {host}" for host in found)]))


def _wait(session: Session, name: str, image: str) -> int:
    """Wait for the pod's end, and return the exit status of its script."""
    end = session.monotonic() + HOSTS_DEADLINE
    while True:
        found = session.cluster.pod(name)
        states = [
            one.get("state") or {} for one in (found.get("status") or {}).get("containerStatuses") or ()
        ]
        ended = next((state["terminated"] for state in states if "terminated" in state), None)
        if ended is not None and ended.get("exitCode") == _NO_SHELL:
            raise PluginError(f"{image} cannot run `sh`: {ended.get('message') or ended.get('reason')}")
        if ended is not None:
            return int(ended["exitCode"])
        why = waiting_for(found)
        if why in _CANNOT_START:
            raise PluginError(
                f"{image} cannot start: {why}. Check its name, and give --pull-secret for a private registry."
            )
        if session.monotonic() > end:
            raise PluginError(f"{image} did not end within {HOSTS_DEADLINE} s: its pod shows {why}.")
        session.sleep(_POLL)
