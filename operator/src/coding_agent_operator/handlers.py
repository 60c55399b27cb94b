"""kopf's handlers: they feed the engine, which holds all state and does all work.

Event handlers add no finalizer and no annotation; that kopf never repeats one is covered by `resync`.
Run by `main.py --mode operator`, or `kopf run -m coding_agent_operator.handlers --namespace NAMESPACE`.
"""

from __future__ import annotations

import os
from typing import Any

import kopf
from coding_agent_core.agenttask import GROUP, PLURAL, VERSION
from coding_agent_core.errors import SettingsError

from coding_agent_operator import watching
from coding_agent_operator.runtime import Runtime
from coding_agent_operator.settings import OperatorSettings, load

kopf.on.login()(watching.login)


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)  # a program that cannot start ends, and is started again
async def startup(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
    """Set kopf up and start the engine."""
    watching.only_watch(settings, watching.TASKS_AND_JOBS)
    ours = getattr(memo, "settings", None) or load(os.environ)
    assert isinstance(ours, OperatorSettings)  # noqa: S101
    try:
        memo.runtime = await Runtime.start(ours)
    except SettingsError as error:
        raise kopf.PermanentError(str(error)) from error


@kopf.on.cleanup()
async def cleanup(memo: Any, **_: Any) -> None:
    """End in good order."""
    if getattr(memo, "runtime", None) is not None:
        await memo.runtime.stop()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def task_event(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A task was created, changed, ended or deleted."""
    memo.runtime.engine.observe_task(event["type"], event["object"])


@kopf.on.event("batch", "v1", "jobs")
async def job_event(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A Job was created, changed or deleted."""
    memo.runtime.engine.observe_job(event["type"], event["object"])
