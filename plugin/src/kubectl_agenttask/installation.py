"""An installation in a cluster, which `init` writes and `doctor` reads: Secrets, programs, rights, clocks."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import GROUP, PLURAL
from coding_agent_core.task.objects import Metadata
from kubernetes import client
from kubernetes.client.exceptions import NotFoundException

from kubectl_agenttask import DeniedError
from kubectl_agenttask.chart_values import Gateway
from kubectl_agenttask.cluster_client import Body, ClusterAccess, sentences
from kubectl_agenttask.profile import ClusterStorage, StorageClass

_TIMEOUT = 10
"""Maximum number of seconds for one request."""
_FIELD_MANAGER = "kubectl-agenttask"
_OURS = "app.kubernetes.io/part-of=coding-agent"
COMPONENT = "app.kubernetes.io/component"
CONFIG_KEY = "config.yaml"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Written(StrEnum):
    """The action of `init` on an object that must exist."""

    CREATED = "created"
    CHANGED = "changed"
    KEPT = "kept"
    """Nothing, because it was right already."""


@dataclass(frozen=True)
class Right:
    """A right at the API server, as RBAC names it."""

    verb: str
    resource: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True)
class StoredSecret:
    """A Secret with decoded values.

    Attributes:
        notes: its annotations.
    """

    values: Mapping[str, str]
    notes: Mapping[str, str]


class Installation:
    """A namespace that has a release or will get one. Methods can raise `PluginError`."""

    def __init__(self, cluster: ClusterAccess) -> None:
        self.namespace = cluster.namespace
        self._api_client = cluster.api_client
        self._core: Any = client.CoreV1Api(cluster.api_client)
        self._apps: Any = client.AppsV1Api(cluster.api_client)
        self._authorization: Any = client.AuthorizationV1Api(cluster.api_client)

    def ensure_namespace(self) -> Written:
        """Create the namespace if it does not exist."""
        try:
            with sentences(f"get namespace {self.namespace}"), suppress(NotFoundException):
                self._core.read_namespace(self.namespace, _request_timeout=_TIMEOUT)
                return Written.KEPT
        except DeniedError:
            # An administrator gave this person the namespace. If it does not exist, the next request says so.
            return Written.KEPT
        with sentences(f"create namespace {self.namespace}"):
            body = {"metadata": {"name": self.namespace}}
            self._core.create_namespace(body, field_manager=_FIELD_MANAGER, _request_timeout=_TIMEOUT)
        return Written.CREATED

    def secret(self, name: str) -> StoredSecret | None:
        """Return a Secret; `None` if it, or its namespace, does not exist."""
        with sentences(f"get secret {name}"):
            try:
                stored = self._core.read_namespaced_secret(name, self.namespace, _request_timeout=_TIMEOUT)
            except NotFoundException:
                return None
        values = {
            key: base64.b64decode(value).decode("utf-8", "replace")
            for key, value in (stored.data or {}).items()
        }
        return StoredSecret(values, stored.metadata.annotations or {})

    def write_secret(
        self, name: str, values: Mapping[str, str], notes: Mapping[str, str] | None = None
    ) -> Written:
        """Create a Secret, or set these keys and annotations of it; others stay as they are."""
        notes = notes or {}
        there = self.secret(name)
        body = {"metadata": {"name": name, "annotations": dict(notes)}, "stringData": dict(values)}
        if there is None:
            with sentences(f"create secret {name}"):
                self._core.create_namespaced_secret(
                    self.namespace, body, field_manager=_FIELD_MANAGER, _request_timeout=_TIMEOUT
                )
            return Written.CREATED
        stripped = {
            key: value.strip() for key, value in there.values.items()
        }  # `--from-file` adds a line end
        same = all(stripped.get(key) == value.strip() for key, value in values.items())
        if same and notes.items() <= there.notes.items():
            return Written.KEPT
        with sentences(f"patch secret {name}"):
            self._core.patch_namespaced_secret(
                name, self.namespace, body, field_manager=_FIELD_MANAGER, _request_timeout=_TIMEOUT
            )
        return Written.CHANGED

    def deployments(self) -> list[Body]:
        """Return the Deployments of the release."""
        with sentences("list deployments"):
            found = self._apps.list_namespaced_deployment(
                self.namespace, label_selector=_OURS, _preload_content=False, _request_timeout=_TIMEOUT
            )
        return _items(found)

    def pods(self, deployment: Body) -> list[Body]:
        """Return the pods that a Deployment selects."""
        labels = deployment["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with sentences("list pods"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _preload_content=False, _request_timeout=_TIMEOUT
            )
        return _items(found)

    def config(self) -> str | None:
        """Return the programs' `config.yaml`; `None` if the namespace has no release."""
        with sentences("list configmaps"):
            found = self._core.list_namespaced_config_map(
                self.namespace, label_selector=f"{_OURS},{COMPONENT}=config", _request_timeout=_TIMEOUT
            )
        texts = [one.data[CONFIG_KEY] for one in found.items if CONFIG_KEY in (one.data or {})]
        return str(texts[0]) if texts else None

    def definition(self) -> Body | None:
        """Return the CustomResourceDefinition of AgentTask; `None` if the cluster does not have it."""
        name = f"{PLURAL}.{GROUP}"
        extensions: Any = client.ApiextensionsV1Api(self._api_client)
        with sentences(f"get customresourcedefinition {name}"):
            try:
                found = extensions.read_custom_resource_definition(
                    name, _preload_content=False, _request_timeout=_TIMEOUT
                )
            except NotFoundException:
                return None
        return dict(json.loads(found.data))

    def egress_rules(self, component: str) -> list[Body] | None:
        """Return the egress rules for attempts or a program; `None` if no NetworkPolicy selects them."""
        networking: Any = client.NetworkingV1Api(self._api_client)
        with sentences("list networkpolicies"):
            found = networking.list_namespaced_network_policy(
                self.namespace,
                label_selector=f"{_OURS},{COMPONENT}={component}",
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        policies = [one["spec"] for one in _items(found) if "Egress" in one["spec"].get("policyTypes", ())]
        if not policies:
            return None
        return [rule for policy in policies for rule in policy.get("egress") or ()]

    def outside_url(self) -> str:
        """Return the address of the release from outside, without a path; empty if it has none."""
        networking: Any = client.NetworkingV1Api(self._api_client)
        with sentences("list ingresses"):
            found = networking.list_namespaced_ingress(
                self.namespace, label_selector=_OURS, _preload_content=False, _request_timeout=_TIMEOUT
            )
        for spec in (one["spec"] for one in _items(found)):
            return f"{'https' if spec.get('tls') else 'http'}://{spec['rules'][0]['host']}"
        routes: Any = client.CustomObjectsApi(self._api_client)
        with sentences("list httproutes"), suppress(NotFoundException):
            where = ("gateway.networking.k8s.io", "v1", self.namespace, "httproutes")
            listed = routes.list_namespaced_custom_object(
                *where, label_selector=_OURS, _request_timeout=_TIMEOUT
            )
            for route in listed["items"]:
                return f"https://{route['spec']['hostnames'][0]}"
        return ""

    def gateways(self) -> tuple[Gateway, ...]:
        """Return the Gateways of the cluster; empty if it has none, or if we may not list them."""
        custom: Any = client.CustomObjectsApi(self._api_client)
        listed: Body = {"items": []}
        with suppress(DeniedError), sentences("list gateways"), suppress(NotFoundException):
            listed = custom.list_cluster_custom_object(
                "gateway.networking.k8s.io", "v1", "gateways", _request_timeout=_TIMEOUT
            )
        found = [Metadata.of(one) for one in listed["items"]]
        return tuple(Gateway(one.namespace, one.name) for one in found)

    def storage(self) -> ClusterStorage:
        """Return the StorageClasses and the number of nodes; nothing of what we may not list."""
        storage: Any = client.StorageV1Api(self._api_client)
        try:
            with sentences("list storageclasses"):
                classes = storage.list_storage_class(_request_timeout=_TIMEOUT).items
            with sentences("list nodes"):
                nodes = len(self._core.list_node(_request_timeout=_TIMEOUT).items)
        except DeniedError:
            return ClusterStorage()
        return ClusterStorage(
            nodes,
            tuple(
                StorageClass(
                    one.metadata.name,
                    one.provisioner,
                    (one.metadata.annotations or {}).get(_DEFAULT_CLASS) == "true",
                )
                for one in classes
            ),
        )

    def storage_class(self, name: str) -> bool:
        """Whether the cluster has a StorageClass; for an empty name, whether it has a default one."""
        storage: Any = client.StorageV1Api(self._api_client)
        with sentences("list storageclasses"):
            found = storage.list_storage_class(_request_timeout=_TIMEOUT)
        if name:
            return any(one.metadata.name == name for one in found.items)
        return any((one.metadata.annotations or {}).get(_DEFAULT_CLASS) == "true" for one in found.items)

    def may(self, right: Right, account: str = "") -> bool:
        """Whether we, or a ServiceAccount of the namespace, have a right in the namespace."""
        resource, _, sub = right.resource.partition("/")
        attributes = {
            "namespace": self.namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": sub,
        }
        spec: dict[str, Any] = {"resourceAttributes": attributes}
        with sentences("review rights"):
            if account:
                spec["user"] = f"system:serviceaccount:{self.namespace}:{account}"
                answer = self._authorization.create_namespaced_local_subject_access_review(
                    self.namespace,
                    {"metadata": {"namespace": self.namespace}, "spec": spec},
                    _request_timeout=_TIMEOUT,
                )
            else:
                answer = self._authorization.create_self_subject_access_review(
                    {"spec": spec}, _request_timeout=_TIMEOUT
                )
        return bool(answer.status.allowed)

    def kubernetes_version(self) -> str:
        """Return the version of the API server, such as `v1.36.3`."""
        with sentences("ask for the version"):
            answer = client.VersionApi(self._api_client).get_code(_request_timeout=_TIMEOUT)
        return str(answer.git_version)

    def server_time(self) -> datetime | None:
        """Return the time of the API server, which has whole seconds; `None` if it does not say it."""
        with sentences("ask for the version"):
            _, _, headers = client.VersionApi(self._api_client).get_code_with_http_info(
                _request_timeout=_TIMEOUT
            )
        date = headers.get("Date")
        return None if date is None else parsedate_to_datetime(date)


def settings_of(text: str) -> Settings:
    """Return the settings of the programs.

    Raises:
        SettingsError: they cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_settings(file, {})


def mounted_secrets(workload: Body) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the Secrets that a Deployment mounts, with the keys; without keys, all of them are mounted."""
    for volume in workload["spec"]["template"]["spec"].get("volumes") or ():
        whole = [volume["secret"]] if "secret" in volume else []
        sources = (volume.get("projected") or {}).get("sources") or ()
        for one in (*whole, *(source["secret"] for source in sources if "secret" in source)):
            keys = tuple(item["key"] for item in one.get("items") or ())
            yield one.get("secretName") or one["name"], keys


def component_of(workload: Mapping[str, Any]) -> str:
    return Metadata.of(workload).labels.get(COMPONENT, Metadata.of(workload).name)


def _items(answer: Any) -> list[Body]:
    return list(json.loads(answer.data)["items"])
