"""kopf as both programs of this distribution use it: it only watches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import kopf
from coding_agent_core.agenttask import GROUP, PLURAL, VERSION

from coding_agent_operator.observed import ACTIVE

Resource = tuple[str, str, str]
"""Group, version, plural. (With 'batch/v1/jobs' kopf matches nothing.)"""
TASKS: Resource = (GROUP, VERSION, PLURAL)
JOBS: Resource = ("batch", "v1", "jobs")
TASKS_AND_JOBS: Mapping[Resource, str] = {TASKS: ACTIVE, JOBS: ACTIVE}
"""What the operator watches."""


def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, else `KUBECONFIG`."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def only_watch(settings: kopf.OperatorSettings, selectors: Mapping[Resource, str]) -> None:
    """With an end to every request; the server filters, so that what ended is free."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    for resource, selector in selectors.items():
        settings.watching.label_selectors[resource] = selector
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 1.0
    settings.process.ultimate_exiting_timeout = 20
    for name in ("kopf.objects", "kopf.activities"):
        logging.getLogger(name).setLevel(logging.WARNING)
