"""kopf's handlers: they feed the engine, which holds all state and does all work.

Event handlers add no finalizer and no annotation; that kopf never repeats one is covered by `resync`.
Run by `main.py --mode operator`, or `kopf run -m coding_agent_operator.handlers --namespace NAMESPACE`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import kopf
from coding_agent_core.agenttask import GROUP, PLURAL, VERSION
from coding_agent_core.errors import SettingsError

from coding_agent_operator.names import ACTIVE
from coding_agent_operator.runtime import Runtime
from coding_agent_operator.settings import OperatorSettings, load


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, else `KUBECONFIG`."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


@kopf.on.startup()
async def startup(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
    """Set kopf up and start the engine."""
    configure(settings)
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


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf only watches: what is active, in one namespace, with an end to every request."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    # The server filters, so that what ever ran costs nothing. (With 'batch/v1/jobs' kopf matches nothing.)
    settings.watching.label_selectors[GROUP, VERSION, PLURAL] = ACTIVE
    settings.watching.label_selectors["batch", "v1", "jobs"] = ACTIVE
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 1.0
    settings.process.ultimate_exiting_timeout = 20
    for name in ("kopf.objects", "kopf.activities"):
        logging.getLogger(name).setLevel(logging.WARNING)
