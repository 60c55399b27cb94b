"""Applies an action to many tasks: lists them, asks, continues after an error, and reports the failures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from coding_agent_core.task.agenttask import AgentTask

from kubectl_agenttask import ExitStatus, PluginError, UnreachableError, tables
from kubectl_agenttask.session import Session


def for_each(
    session: Session,
    tasks: Sequence[AgentTask],
    do: Callable[[AgentTask], None],
    *,
    verb: str,
    yes: bool,
    ask: Callable[[str], str] | None = None,
) -> ExitStatus:
    """Apply an action to tasks, after a person has seen them and agreed.

    Args:
        do: applies the action to one task and prints the result. It can raise `PluginError`.
        verb: the action, for questions such as `cancel 3 tasks`.
        yes: whether the person has agreed already.
        ask: asks a question and returns the answer; by default on the terminal.

    Returns:
        `FAILED` if the person does not agree, or if something failed.

    Raises:
        UsageError: nobody can be asked.
        UnreachableError: the API server does not answer, so that the other tasks would fail too.
    """
    if not tasks:
        session.notes.print(f"There is no task to {verb}.")
        return ExitStatus.DONE
    many = f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}"
    rows = tables.task_rows((task.body for task in tasks), session.clock())
    tables.show_table(session.notes, tables.COLUMNS, rows)
    if not yes:
        question = f"{verb.capitalize()} {many}? Answer yes or no"
        if (ask or _ask)(question).lower() not in ("y", "yes"):
            session.notes.print("Nothing was changed.")
            return ExitStatus.FAILED
    failed = 0
    for task in tasks:
        try:
            do(task)
        except UnreachableError:
            raise
        except PluginError as error:
            failed += 1
            session.notes.print(f"error: {task.name}: {error}", style="red", soft_wrap=True)
    if failed:
        session.notes.print(f"Could not {verb} {failed} of {many}.")
    return ExitStatus.FAILED if failed else ExitStatus.DONE


def _ask(question: str) -> str:
    # This module reads the settings, which takes a tenth of a second.
    from kubectl_agenttask.answers import Asker  # noqa: PLC0415

    return Asker(interactive=sys.stdin.isatty()).text(question, "--yes")
