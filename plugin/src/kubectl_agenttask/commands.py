"""The subcommands: each reads, decides, writes and prints."""

from __future__ import annotations

import codecs
import math
import re
import webbrowser
from argparse import Namespace
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.task.agenttask import (
    LABEL_DEFAULTED,
    NOT_ENDED,
    AgentTask,
    Spec,
    UnreadableTaskError,
    manifest,
)
from coding_agent_core.task.model import Item, Origin, Phase, TaskRequest, Trigger, item_of
from coding_agent_core.task.objects import Metadata
from coding_agent_core.task.runners import RunnerName
from coding_agent_core.task.runs import next_run, runs_of, works

from kubectl_agenttask import (
    DeniedError,
    ExitStatus,
    NotFoundError,
    PluginError,
    UsageError,
    bulk,
    plain,
    tables,
    without_controls,
)
from kubectl_agenttask.argument_types import OBJECTS, Format
from kubectl_agenttask.cluster_client import (
    HOSTS_CONTAINER,
    HOSTS_DEADLINE,
    Body,
    attempt_of_pod,
    choose,
    has_started,
    hosts_pod,
    is_of,
    waiting_for,
)
from kubectl_agenttask.output import show_task, show_tasks
from kubectl_agenttask.references import Reference
from kubectl_agenttask.session import Session
from kubectl_agenttask.tables import show_facts, show_table
from kubectl_agenttask.waiting import end_of

_POLL = 1.0
"""Seconds between two reads of a pod."""
_LONGEST_WAIT = 600.0
"""Maximum number of seconds that `logs -f` waits for a pod to start."""


def list_tasks(session: Session, arguments: Namespace) -> None:
    """`list`: print a row for each task; with `--watch`, another one after each change."""
    if arguments.watch:
        _watch(session, arguments)
        return
    tasks = _listed(session, arguments)
    if arguments.output in OBJECTS:
        show_tasks(session.out, tasks, arguments.output)
        return
    where = "in any namespace" if arguments.all_namespaces else f"in namespace {session.cluster.namespace}"
    if not tasks:
        selected = " that match" if arguments.active or arguments.repo else ""
        session.notes.print(f"No agenttasks{selected} {where}.")
        return
    show_table(session.out, _columns(arguments), _rows(session, arguments, tasks))


def _listed(session: Session, arguments: Namespace) -> list[AgentTask]:
    """Return the tasks that `list` shows."""
    if arguments.name is not None:
        if arguments.all_namespaces:
            raise UsageError("a name is looked up in one namespace: give --namespace, not --all-namespaces")
        found = session.cluster.matching(Reference.parse(arguments.name))
        return [task for task in found if not arguments.active or not task.over]
    return list(
        session.cluster.tasks(
            everywhere=arguments.all_namespaces, active=arguments.active, repository=arguments.repo
        )
    )


def _columns(arguments: Namespace) -> tuple[str, ...]:
    columns = tables.WIDE if arguments.output is Format.WIDE else tables.COLUMNS
    return ("NAMESPACE", *columns) if arguments.all_namespaces else columns


def _rows(session: Session, arguments: Namespace, tasks: list[AgentTask]) -> list[tuple[str, ...]]:
    """Return the rows of tasks, by namespace if all namespaces are shown."""
    now, make = session.clock(), tables.wide_rows if arguments.output is Format.WIDE else tables.task_rows
    if not arguments.all_namespaces:
        return make((task.body for task in tasks), now)
    return [
        (space, *row)
        for space in sorted({task.namespace for task in tasks})
        for row in make((task.body for task in tasks if task.namespace == space), now)
    ]


def _watch(session: Session, arguments: Namespace) -> None:
    """Print the tasks, and then a row or an object for each change, until the person stops the command."""
    reference = None if arguments.name is None else Reference.parse(arguments.name)
    selectors = [NOT_ENDED] if arguments.active else []
    if reference is not None and reference.name:
        selectors.append(f"metadata.name={reference.name}")
    elif reference is not None:
        # The API server compares letter case, so we ask for the repository as it is stored.
        stored = session.cluster.matching(reference)[0].spec.source
        selectors.append(f"spec.source.repository={stored.repository}")
    columns = _columns(arguments)
    widths = tables.widths((columns, *_rows(session, arguments, _listed(session, arguments))))
    if arguments.output not in OBJECTS:
        session.out.print(tables.aligned(columns, widths), soft_wrap=True)
    for task, exists in session.cluster.changes(
        everywhere=arguments.all_namespaces, selector=",".join(selectors), seconds=math.inf
    ):
        if not is_of(task.body, arguments.repo) or (reference and not reference.matches(task)):
            continue
        # A task that has ended no longer matches `--active`. The watch then shows its state before that.
        current = task if exists else session.cluster.stored(task)
        if current is None:
            session.notes.print(f"{task.name} was deleted.")
        elif arguments.output in OBJECTS:
            show_task(session.out, current, arguments.output)
        else:
            for row in _rows(session, arguments, [current]):
                session.out.print(tables.aligned(row, widths), soft_wrap=True)


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
    sections, now = session.cluster.find(arguments.name), session.clock()
    if arguments.output is not None:
        show_task(session.out, sections, arguments.output)
        return
    task = sections.body
    show_facts(session.out, tables.facts(task, now))
    parts = [
        ("Conditions", tables.CONDITIONS, tables.condition_rows(task, now)),
        ("Attempts", tables.ATTEMPTS, tables.attempt_rows(task)),
        ("Hosts denied by the egress proxy", tables.DENIED, tables.denied_rows(task)),
        ("Models", tables.MODELS, tables.model_rows(task)),
        ("Transcripts", tables.TRANSCRIPTS, tables.transcript_rows(task)),
    ]
    try:
        events = session.cluster.events(sections.name)
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
    task = _task_of_logs(session, arguments)
    pod = _pod(session, task.name, arguments)
    name = Metadata.of(pod).name
    session.notes.print(f"Attempt {attempt_of_pod(pod)}, pod {name}, container {arguments.container}:")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in session.cluster.log(name, arguments.container, follow=arguments.follow):
        # A file or another program gets the log byte for byte. A terminal would obey what is in it.
        shown = without_controls(decoder.decode(chunk)).encode() if session.out.is_terminal else chunk
        session.raw.write(shown)
        session.raw.flush()


def _task_of_logs(session: Session, arguments: Namespace) -> AgentTask:
    """Return the task whose log to print; with `--last`, the newest run of the item or of the namespace."""
    if arguments.name is not None:
        task = session.cluster.find(arguments.name)
        if not arguments.last or not task.readable:
            return task
        runs = runs_of(task.spec.item, session.cluster.runs(task.spec.item))
        return runs[-1] if runs else task
    if not arguments.last:
        raise UsageError("name a task, or give --last for the newest one")
    tasks = session.cluster.tasks(everywhere=False, active=False, repository=None)
    newest = max(tasks, key=lambda task: (task.metadata.created, task.name), default=None)
    if newest is None:
        raise NotFoundError(f"there is no agenttask in namespace {session.cluster.namespace}")
    return newest


def _pod(session: Session, name: str, arguments: Namespace) -> Body:
    """Return the pod whose log to print; with `--follow`, wait until it has a log."""
    end, said = session.monotonic() + _LONGEST_WAIT, ""
    while True:
        task = session.cluster.task(name)
        pod = choose(session.cluster.pods(name), arguments.attempt)
        if pod is not None and has_started(pod, arguments.container):
            return dict(pod)
        why = f"its pod waits: {waiting_for(pod)}" if pod is not None else _no_pod(task)
        problem = f"{name} has no log at the moment: {why}."
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
    """Return a sentence that says where to look when the pods of a task are gone."""
    kept = tables.transcript_rows(task.body)
    if kept:
        _, place, link = kept[-1]
        return f"; its pods are gone, its transcript is at {link or place}"
    if tables.last_steps(task.body) is not None:
        return f"; its pods are gone, `kubectl agenttask describe {task.name}` shows its last steps"
    return "; its pods are gone, read them in your log store"


def cancel(session: Session, arguments: Namespace) -> ExitStatus | None:
    """`cancel`: stop a task; with `--all`, every task that works."""
    if _is_bulk(arguments, "all"):
        return _cancel_all(session, arguments)
    task = _not_ended(session, arguments.name, "there is nothing to cancel")
    if _has(task, "cancel"):
        session.notes.print(f"{task.name} is already being cancelled.")
    else:
        _stop(session, task, arguments)
    return None


def _stop(session: Session, task: AgentTask, arguments: Namespace) -> None:
    changed = session.cluster.cancel(task.name)
    session.show(changed, arguments.output, f"agenttask {task.name} is being cancelled")


def _cancel_all(session: Session, arguments: Namespace) -> ExitStatus:
    """Cancel the tasks that have not ended."""
    found = session.cluster.tasks(everywhere=False, active=True, repository=arguments.repo)
    working = [task for task in found if not task.over and not _has(task, "cancel")]

    def stop(task: AgentTask) -> None:
        _stop(session, task, arguments)

    return bulk.for_each(session, working, stop, verb="cancel", yes=arguments.yes)


def suspend(session: Session, arguments: Namespace) -> None:
    """`suspend`: suspend a task until it is resumed."""
    task = _not_ended(session, arguments.name, "there is nothing to suspend")
    if _has(task, "suspend"):
        session.notes.print(f"{task.name} is suspended already.")
        return
    _change(session, task, arguments, "suspended", suspend=True)


def resume(session: Session, arguments: Namespace) -> None:
    """`resume`: resume a suspended task."""
    task = _not_ended(session, arguments.name, "`kubectl agenttask retry {name}` starts a new run")
    if not _has(task, "suspend"):
        session.notes.print(f"{task.name} is not suspended.")
        return
    _change(session, task, arguments, "resumed", suspend=False)


def _change(session: Session, task: AgentTask, arguments: Namespace, done: str, **spec: bool) -> None:
    """Change a task's spec, and print the task or what was done."""
    changed = session.cluster.patch_spec(task.name, **spec)
    session.show(changed, arguments.output, f"agenttask {task.name} {done}")


def open_item(session: Session, arguments: Namespace) -> None:
    """`open`: show a task's item or change in the browser.

    Raises:
        PluginError: the task has no such address, or no browser can be started.
    """
    task = session.cluster.find(arguments.name)
    url = str(task.body["spec"].get("url") or "")
    if arguments.change:
        # A run that waits has no change of its own yet, but works on that of the item's earlier runs.
        runs = [run for run in session.cluster.runs(task.spec.item) if run.spec.run <= task.spec.run]
        url = tables.change_of(run.body for run in [*runs, task])
    # An agent or a person wrote the address, so a browser gets nothing but web addresses.
    if not url or not url.startswith(("https://", "http://")):
        raise PluginError(f"{task.name} has no {'change' if arguments.change else 'address of an item'} yet.")
    if arguments.print:
        session.out.print(plain(url), soft_wrap=True)
    elif not webbrowser.open(url):
        raise PluginError(f"no browser can be started here: open {plain(url)}")


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


def retry(session: Session, arguments: Namespace) -> ExitStatus | None:
    """`retry`: create the next run of a task's item, with the same options; or those of all failed tasks."""
    _check_wait(arguments)
    if _is_bulk(arguments, "failed"):
        return _retry_failed(session, arguments)
    if arguments.reason or arguments.since:
        raise UsageError("--reason and --since choose among failed tasks: give --failed too")
    created = _next_run(session, session.cluster.find(arguments.name), arguments.priority)
    return _created(session, created, arguments)


def _retry_failed(session: Session, arguments: Namespace) -> ExitStatus:
    """Create the next run of each item whose newest run failed for the reason and in the time given."""
    if arguments.wait:
        raise UsageError("--wait is for one task")
    found = session.cluster.tasks(everywhere=False, active=False, repository=arguments.repo)
    since = None if arguments.since is None else session.clock() - arguments.since
    failed = failed_runs(found, arguments.reason, since)

    def again(task: AgentTask) -> None:
        created = _next_run(session, task, arguments.priority)
        session.show(created, arguments.output, f"agenttask {created.name} created")

    return bulk.for_each(session, failed, again, verb="retry", yes=arguments.yes)


def failed_runs(tasks: Iterable[AgentTask], reason: str | None, since: datetime | None) -> list[AgentTask]:
    """Return the newest run of each item, if it failed. A failed run that a later one follows does not count.

    Args:
        reason: only runs that failed for this reason; `None`: for any reason.
        since: only runs that failed after this time; `None`: at any time.
    """
    items: dict[str, list[AgentTask]] = {}
    for task in tasks:
        if task.readable:
            items.setdefault(task.spec.item.identity, []).append(task)
    newest = [runs_of(runs[0].spec.item, runs)[-1] for runs in items.values()]
    return [
        task
        for task in newest
        if task.status.terminal_phase is Phase.FAILED
        and (reason is None or task.status.reason == reason)
        and (since is None or (task.ended_at is not None and task.ended_at >= since))
    ]


def _next_run(session: Session, earlier: AgentTask, priority: int | None) -> AgentTask:
    """Create the next run of a task's item, with the same options, and return it.

    Args:
        priority: `None` for that of the task.

    Raises:
        PluginError: a run of the item is active, or the API server refuses the new one.
    """
    try:
        spec = earlier.spec
    except UnreadableTaskError as error:
        raise PluginError(f"{earlier.name} was stored by another release: {error.why}") from error
    request = spec.request.model_copy(update={"trigger": _by_hand(session)})
    task = _next_task(session, request)
    given = earlier.body["spec"]
    task["spec"] |= {name: given[name] for name in OPTIONS if name in given}
    return _create(session, task, spec.priority if priority is None else priority)


def run(session: Session, arguments: Namespace) -> ExitStatus | None:
    """`run`: create a task for an issue, pull request or merge request, without a label."""
    _check_wait(arguments)
    item, url = _item_to_run(session, arguments)
    if FACTS[item.platform].by_project_id and item.project_id is None:
        session.notes.print(
            "Without --project-id this task does not count as a run of the item that a label starts: both "
            f"can run at the same time. {FACTS[item.platform].project_id_help}"
        )
    request = TaskRequest(
        item=item,
        user=arguments.user,
        url=url,
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
    return _created(session, _create(session, task, arguments.priority or 0), arguments)


def _item_to_run(session: Session, arguments: Namespace) -> tuple[Item, str]:
    """Return the item and its address, from the address or from a task of the item."""
    text = arguments.url.strip()
    if not text.startswith(("http://", "https://")):
        known = session.cluster.find(text)
        if known.readable:
            return known.spec.item, known.spec.url
        raise PluginError(f"{known.name} was stored by another release: give the address of its item.")
    try:
        platform = None if arguments.platform is None else Platform(arguments.platform)
        return item_of(text, arguments.project_id, platform=platform), text
    except ValueError as error:
        raise UsageError(str(error)) from error


def _next_task(session: Session, request: TaskRequest, **options: Any) -> dict[str, Any]:
    """Return the manifest of the item's next run. Limits that are `None` are the operator's defaults."""
    listed = session.cluster.runs(request.item)
    runs = runs_of(request.item, listed)
    if runs and works(runs[-1]):
        raise PluginError(
            f"{runs[-1].name} is working on {request.item.display}: follow it with `kubectl agenttask logs "
            f"-f {runs[-1].name}`, or `kubectl agenttask cancel {runs[-1].name}` first."
        )
    if runs and not runs[-1].over:
        session.notes.print(f"The new task starts when {runs[-1].name}, which is being cancelled, has ended.")
    return manifest(request, run=next_run(request.item, runs, listed), **options)


def _create(session: Session, task: dict[str, Any], priority: int) -> AgentTask:
    if not {"timeoutSeconds", "maxAttempts"} <= set(task["spec"]):
        # Without this label, the operator adopts the task: it fills in its own limits and adds the label.
        del task["metadata"]["labels"][LABEL_DEFAULTED]
    if priority:
        task["spec"]["priority"] = priority
    return session.cluster.create(task)


def _created(session: Session, task: AgentTask, arguments: Namespace) -> ExitStatus | None:
    """Print a new task; with `--wait`, print it when it has ended, and return how it ended."""
    sentence = f"agenttask {task.name} created"
    if not arguments.wait:
        session.show(task, arguments.output, sentence)
        return None
    session.notes.print(sentence)
    return end_of(session, task, arguments)


def _is_bulk(arguments: Namespace, flag: str) -> bool:
    """Whether the person means many tasks.

    Raises:
        UsageError: the person names one task and many, or none.
    """
    bulk_wanted = bool(getattr(arguments, flag))
    if bulk_wanted == (arguments.name is not None):
        raise UsageError(f"name one task, or give --{flag}")
    if arguments.repo and not bulk_wanted:
        raise UsageError(f"--repo chooses among many tasks: give --{flag} too")
    return bulk_wanted


def _check_wait(arguments: Namespace) -> None:
    """Refuse a time limit that would limit nothing, before a task is created."""
    if arguments.timeout is not None and not arguments.wait:
        raise UsageError("--timeout limits how long --wait waits: give --wait too")


def _by_hand(session: Session) -> Trigger:
    return Trigger(origin=Origin.MANUAL, cause=None, received_at=session.clock())


def _not_ended(session: Session, name: str, hint: str) -> AgentTask:
    task = session.cluster.find(name)
    if task.over:
        why = hint.format(name=task.name)
        raise PluginError(f"{task.name} has ended ({tables.phase(task.body)}): {why}.")
    return task


def _has(task: AgentTask, field: str) -> bool:
    """Whether a field of the spec is set; the spec may have been written by another release."""
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
        pod = session.cluster.pod(name)
        states = [one.get("state") or {} for one in (pod.get("status") or {}).get("containerStatuses") or ()]
        ended = next((state["terminated"] for state in states if "terminated" in state), None)
        if ended is not None and ended.get("exitCode") == _NO_SHELL:
            raise PluginError(f"{image} cannot run `sh`: {ended.get('message') or ended.get('reason')}")
        if ended is not None:
            return int(ended["exitCode"])
        why = waiting_for(pod)
        if why in _CANNOT_START:
            raise PluginError(
                f"{image} cannot start: {why}. Check its name, and give --pull-secret for a private registry."
            )
        if session.monotonic() > end:
            raise PluginError(f"{image} did not end within {HOSTS_DEADLINE} s: its pod shows {why}.")
        session.sleep(_POLL)
