"""Puts many AgentTasks into a control plane at once: straight into its etcd, as a restored backup does.

Ten thousand take a second, where two requests for each to the API server take minutes. Kubernetes keeps
custom resources as JSON under `/registry/GROUP/PLURAL/NAMESPACE/NAME`, and etcd has its API as JSON over HTTP
too (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/).
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable
from typing import Any

import httpx2
from coding_agent_core.task import agenttask

_IN_ONE_TRANSACTION = 128
"""As many as etcd takes (`--max-txn-ops`)."""
_SECONDS = 30.0

Body = dict[str, Any]


def restore(etcd_url: str, namespace: str, tasks: Iterable[Body]) -> None:
    """Put the tasks there, whole, as the API server would have them.

    Raises:
        httpx2.HTTPError: etcd does not take them.
    """
    rest = iter(tasks)
    with httpx2.Client(base_url=etcd_url, timeout=_SECONDS, trust_env=False) as etcd:
        while some := list(itertools.islice(rest, _IN_ONE_TRANSACTION)):
            puts = [{"requestPut": _put(namespace, task)} for task in some]
            etcd.post("/v3/kv/txn", json={"success": puts}).raise_for_status()


def _put(namespace: str, task: Body) -> dict[str, str]:
    key = f"/registry/{agenttask.GROUP}/{agenttask.PLURAL}/{namespace}/{task['metadata']['name']}"
    return {"key": _text(key), "value": _text(json.dumps(task))}


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
