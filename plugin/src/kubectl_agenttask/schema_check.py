"""`doctor --crd`: asks the API server which stored AgentTasks the schema of another release refuses.

Only the API server knows all of its rules (defaults, CEL, formats). So it gets a copy of that
CustomResourceDefinition under another name, and a dry run of creating each task in it. Nothing is stored in
the copy, and it is deleted afterwards.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.task.agenttask import GROUP, KIND, PLURAL, VERSION, AgentTask
from kubernetes import client
from kubernetes.client.exceptions import ApiException, NotFoundException

from kubectl_agenttask import UsageError
from kubectl_agenttask.cluster_client import Body, sentences
from kubectl_agenttask.findings import Finding, SchemaVerdict, ok, schema_findings, without_defaults, wrong
from kubectl_agenttask.installation import Installation
from kubectl_agenttask.session import Session

_NAME = f"{PLURAL}.{GROUP}"
_COPY_GROUP = f"schema-check.{GROUP}"
_COPY_PLURAL = "checkedagenttasks"
"""This differs from the real name, so that `kubectl get agenttasks` always means the same."""
_COPY = f"{_COPY_PLURAL}.{_COPY_GROUP}"
_TIMEOUT = 10
"""Maximum number of seconds for one request."""
_LONGEST_WAIT = 60.0
"""Maximum number of seconds until the API server serves the copy, and until it has deleted it. It needs about
one; several API servers behind one address need some more.
"""
_PAUSE = 0.1
"""Seconds between two checks whether it has done so."""
_UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
"""In the API server's answer to a strict request (k8s.io/apimachinery/pkg/runtime/error.go)."""


def read_definition(place: str) -> Body:
    """Return the CustomResourceDefinition of AgentTask in a YAML file, which may contain other objects.

    Args:
        place: the path of the file; `-` is standard input, for example from `helm get manifest`.

    Raises:
        UsageError: the file cannot be read, or it does not contain the definition exactly once.
    """
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--crd {place} cannot be read: {error}") from error
    definitions = [
        one
        for one in documents
        if isinstance(one, dict)
        and one.get("kind") == "CustomResourceDefinition"
        and (one.get("metadata") or {}).get("name") == _NAME
        and (one.get("spec") or {}).get("versions")
    ]
    if len(definitions) != 1:
        raise UsageError(
            f"--crd {place} contains the CustomResourceDefinition {_NAME} {len(definitions)} times instead "
            "of once. Give crds/agenttask.yaml of the other release, or the output of `helm get manifest`."
        )
    return dict(definitions[0])


def check_schema(session: Session, definition: Body) -> Iterator[Finding]:
    """Yield which stored tasks of all namespaces the schema refuses, or would store without some fields.

    Args:
        definition: the CustomResourceDefinition of the other release.

    Raises:
        PluginError: a request failed.
    """
    served = [one["name"] for one in definition["spec"]["versions"] if one.get("served")]
    if VERSION not in served:
        yield wrong(
            "CRD",
            f"it serves {', '.join(served) or 'no version'} instead of {VERSION}, so no task could be read: "
            "choose a release whose CustomResourceDefinition serves it",
        )
        return
    current = Installation(session.cluster).definition()
    if current is None:
        yield ok("CRD", "the cluster does not know AgentTask, so it has no task that could be refused")
        return
    [schema] = [
        one["schema"]["openAPIV3Schema"] for one in current["spec"]["versions"] if one["name"] == VERSION
    ]
    tasks = session.cluster.tasks(everywhere=True, active=False, repository=None)
    with _copy(session, definition) as trial:
        yield from schema_findings(trial.answer(task, schema) for task in tasks)


class _SchemaCopy:
    """A copy of the CustomResourceDefinition at the API server."""

    def __init__(self, session: Session) -> None:
        self._custom: Any = client.CustomObjectsApi(session.cluster.api_client)
        self._session = session

    def answer(self, task: AgentTask, schema: Body) -> SchemaVerdict:
        """Return the API server's verdict on a task that is stored under a schema."""
        said = self._create(task.body, "Strict")
        lost = _UNKNOWN_FIELD.findall(said)
        if lost:  # then it has not applied the other rules
            said = self._create(task.body, "Ignore")
        return SchemaVerdict(
            f"{task.namespace}/{task.name}",
            ended=task.ended,
            lost=without_defaults(lost, task.body, schema),
            refused=said,
        )

    def _create(self, body: Mapping[str, Any], validation: str) -> str:
        """Create an object in a dry run; return why it is refused, empty if it is not."""
        task = {
            **body,
            "apiVersion": f"{_COPY_GROUP}/{VERSION}",
            "metadata": {"name": body["metadata"]["name"]},
        }
        deadline = self._session.monotonic() + _LONGEST_WAIT
        while True:
            with sentences("create a copy of an agenttask in a dry run"):
                try:
                    self._custom.create_cluster_custom_object(
                        _COPY_GROUP,
                        VERSION,
                        _COPY_PLURAL,
                        task,
                        dry_run="All",
                        field_validation=validation,
                        _request_timeout=_TIMEOUT,
                    )
                except NotFoundException:  # it does not serve the copy yet
                    if self._session.monotonic() > deadline:
                        raise
                except ApiException as error:
                    if error.status not in (400, 422):
                        raise
                    return _reasons(error)
                else:
                    return ""
            self._session.sleep(_PAUSE)


@contextmanager
def _copy(session: Session, definition: Body) -> Iterator[_SchemaCopy]:
    extensions: Any = client.ApiextensionsV1Api(session.cluster.api_client)
    taken = (
        f"the CustomResourceDefinition {_COPY} exists already: another check is running, or one was killed. "
        f"In the second case: kubectl delete crd {_COPY}"
    )
    with sentences(f"create customresourcedefinition {_COPY}", conflict=taken):
        extensions.create_custom_resource_definition(_renamed(definition), _request_timeout=_TIMEOUT)
    try:
        yield _SchemaCopy(session)
    finally:
        with sentences(f"delete customresourcedefinition {_COPY}"), suppress(NotFoundException):
            extensions.delete_custom_resource_definition(_COPY, _request_timeout=_TIMEOUT)
            # The API server deletes the objects of a definition first. The next check needs the name.
            deadline = session.monotonic() + _LONGEST_WAIT
            while session.monotonic() < deadline:
                session.sleep(_PAUSE)
                extensions.read_custom_resource_definition(_COPY, _request_timeout=_TIMEOUT)


def _renamed(definition: Body) -> Body:
    """Return the definition under the copy's name, for whole objects without a namespace.

    Without the subresource `status`, the API server checks a task's status as it is created, too.
    """
    versions = [
        {key: value for key, value in one.items() if key != "subresources"}
        for one in definition["spec"]["versions"]
    ]
    spec = {
        **definition["spec"],
        "group": _COPY_GROUP,
        "scope": "Cluster",
        "names": {"plural": _COPY_PLURAL, "kind": KIND},
        "versions": versions,
    }
    return {**definition, "metadata": {"name": _COPY}, "spec": spec}


def _reasons(error: ApiException) -> str:
    """Return the causes in a refusal as `FIELD: MESSAGE`, or its whole message if it lists none."""
    status = json.loads(error.body or "{}")
    causes = (status.get("details") or {}).get("causes") or ()
    # A cause of no field says that other rules were not checked because of the ones listed.
    listed = [f"{one['field']}: {one['message']}" for one in causes if one.get("field", "<nil>") != "<nil>"]
    return "; ".join(listed) or str(status.get("message", error.reason))
