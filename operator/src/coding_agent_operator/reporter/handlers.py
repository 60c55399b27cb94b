"""kopf's handlers of the reporter: one watch that feeds the engine, which does all work.

Run by `main.py --mode reporter`, or by
`kopf run -m coding_agent_operator.reporter.handlers --namespace NAMESPACE`.
"""

from __future__ import annotations

from typing import Any

import kopf
from coding_agent_core.agenttask import GROUP, PLURAL, VERSION
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings import Settings, load_settings

from coding_agent_operator import watching
from coding_agent_operator.reporter.names import WATCHED
from coding_agent_operator.reporter.runtime import Runtime

kopf.on.login()(watching.login)


@kopf.on.startup()
async def startup(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
    """Set kopf up and start the engine."""
    watching.only_watch(settings, {(GROUP, VERSION, PLURAL): WATCHED})
    ours = getattr(memo, "settings", None) or load_settings()
    assert isinstance(ours, Settings)  # noqa: S101
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
    """A task was created or changed, is shown for good, or was deleted."""
    memo.runtime.engine.observe(event["type"], event["object"])
