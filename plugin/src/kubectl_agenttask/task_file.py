"""`main.py tasks`: shows and changes the tasks of one machine, as `kubectl agenttask` those of a cluster."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.task.agenttask import (
    ANNOTATION_CANCELLED_BY,
    ANNOTATION_CREATED_BY,
    KIND,
    LABEL_ITEM,
    AgentTask,
    labels_for,
    manifest,
)
from coding_agent_core.task.model import Origin, Trigger
from coding_agent_core.task.runs import next_run, runs_of, works
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_core.task_file.tasks import merged
from rich.console import Console

from kubectl_agenttask import tables
from kubectl_agenttask.commands import OPTIONS


def add_commands(parser: ArgumentParser) -> None:
    """Add the commands to the parser of `main.py tasks`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    commands.add_parser("list", help="print a line for each task").set_defaults(run=show_all)
    named: tuple[tuple[str, str, Callable[..., None]], ...] = (
        ("describe", "print everything about one task", describe),
        ("cancel", "stop a task for good; its work so far is pushed", cancel),
        ("retry", "create the next run of a task's item, with the same options", retry),
    )
    for name, text, run in named:
        one = commands.add_parser(name, help=text)
        one.add_argument("name", metavar="NAME", help="the task's name, as `list` prints it")
        one.set_defaults(run=run)


def run(path: Path, arguments: Namespace, out: Console) -> None:
    """Carry out a command on the tasks of a file. The process that works on them notices it at once.

    Raises:
        CodingAgentError: there is no such task, or it cannot be changed.
    """
    if not path.exists():
        raise CodingAgentError(f"there are no tasks yet: {path} does not exist")
    objects = ObjectFile(path)
    try:
        arguments.run(objects, arguments, out)
    finally:
        objects.close()


def show_all(objects: ObjectFile, _: Namespace, out: Console) -> None:
    """`list`: print a line for each task."""
    rows = tables.task_rows(objects.list(KIND)[0], datetime.now(UTC))
    if rows:
        tables.show_table(out, tables.COLUMNS, rows)
    else:
        out.print("There are no tasks.")


def describe(objects: ObjectFile, arguments: Namespace, out: Console) -> None:
    """`describe`: print everything about one task."""
    task, now = _find(objects, arguments.name), datetime.now(UTC)
    tables.show_facts(out, tables.facts(task.body, now))
    parts: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        ("Conditions", tables.CONDITIONS, tables.condition_rows(task.body, now)),
        ("Attempts", tables.ATTEMPTS, tables.attempt_rows(task.body)),
        ("Models", tables.MODELS, tables.model_rows(task.body)),
        ("Transcripts", tables.TRANSCRIPTS, tables.transcript_rows(task.body)),
        (
            "Events",
            tables.EVENTS,
            [
                (kind, reason, tables.age(at, now), message)
                for at, kind, reason, message in objects.events(task.uid)
            ],
        ),
    ]
    for title, columns, rows in parts:
        if rows:
            out.print(f"\n{title}:")
            tables.show_table(out, columns, rows)


def cancel(objects: ObjectFile, arguments: Namespace, out: Console) -> None:
    """`cancel`: stop a task."""
    task = _find(objects, arguments.name)
    if task.over:
        raise CodingAgentError(
            f"{task.name} has ended ({tables.phase(task.body)}): there is nothing to cancel"
        )
    annotations = {ANNOTATION_CANCELLED_BY: _person()}
    patch = {"spec": {"cancel": True}, "metadata": {"annotations": annotations}}
    objects.change(KIND, task.name, lambda body: merged(body, patch))
    out.print(f"{task.name} is being cancelled")


def retry(objects: ObjectFile, arguments: Namespace, out: Console) -> None:
    """`retry`: create the next run of a task's item, with the same options."""
    earlier = _find(objects, arguments.name)
    item, spec = earlier.spec.item, earlier.body["spec"]
    with objects.transaction():
        stored = objects.list(KIND, f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}")[0]
        tasks = [AgentTask.of(body) for body in stored]
        runs = runs_of(item, tasks)
        if runs and works(runs[-1]):
            raise CodingAgentError(f"{runs[-1].name} is working on {item.display}: cancel it first")
        trigger = Trigger(origin=Origin.MANUAL, cause=None, received_at=datetime.now(UTC))
        request = earlier.spec.request.model_copy(update={"trigger": trigger})
        task: dict[str, Any] = manifest(request, run=next_run(item, runs, tasks))
        task["spec"] |= {name: spec[name] for name in OPTIONS if name in spec}
        task["metadata"]["annotations"] = {ANNOTATION_CREATED_BY: _person()}
        if objects.create(KIND, task) is None:
            raise CodingAgentError(f"{task['metadata']['name']} exists already; try again")
    out.print(f"{task['metadata']['name']} created")


def _find(objects: ObjectFile, name: str) -> AgentTask:
    body = objects.get(KIND, name)
    if body is None:
        raise CodingAgentError(f"there is no task {name}: see `main.py tasks list`")
    return AgentTask.of(body)


def _person() -> str:
    """Return the name of this process's user; its number in a container whose system does not know it."""
    try:
        return getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
