"""Sends requests to the API server, each with a timeout, and reads pods. Errors become sentences."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import urllib3
import yaml
from coding_agent_core.agenttask import (
    ANNOTATION_CREATED_BY,
    GROUP,
    LABEL_ATTEMPT,
    LABEL_ITEM,
    LABEL_TASK,
    NOT_ENDED,
    PLURAL,
    VERSION,
    AgentTask,
    labels_for,
)
from coding_agent_core.objects import Metadata
from coding_agent_core.tasks import Item
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, NotFoundException

from kubectl_agenttask import ConfigurationError, DeniedError, PluginError, UnreachableError

_BAD_KUBECONFIG = (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError)
_TIMEOUT = 10
"""Maximum number of seconds for one request."""
_SILENCE = 86_400
"""Maximum number of seconds for which a container may write nothing while its log is followed."""
_PAGE = 500
HOSTS_CONTAINER = "package-managers"
_HOME = "/tmp"  # noqa: S108 - in the container
_USER = 20_000
"""One of `WORKSPACE_USERS` in the settings. To import those would cost each command a tenth of a second."""
HOSTS_DEADLINE = 300
"""Maximum number of seconds for pulling the image and running the script; then the cluster ends the pod."""
_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Body = dict[str, Any]


class ClusterAccess:
    """Reads and changes AgentTasks, and reads their pods and Events. Methods can raise `PluginError`."""

    def __init__(self, api_client: Any, namespace: str) -> None:
        self.namespace = namespace
        self.api_client = api_client
        self._tasks: Any = client.CustomObjectsApi(api_client)

    @cached_property
    def _core(self) -> Any:
        """The client for pods and Events. It is made on first use, because its import takes as long as all
        other imports of a command.
        """
        return client.CoreV1Api(self.api_client)

    @staticmethod
    def connect(kubeconfig: str | None, context: str | None, namespace: str | None) -> ClusterAccess:
        """Connect as kubectl does: by the flags, `KUBECONFIG`, ~/.kube/config, or the pod's account.

        Raises:
            ConfigurationError: there is no usable configuration.
        """
        named = kubeconfig or context or os.environ.get("KUBECONFIG")
        if not named and not Path("~/.kube/config").expanduser().exists() and _IN_CLUSTER.exists():
            settings = client.Configuration()
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            return ClusterAccess(client.ApiClient(settings), namespace or _IN_CLUSTER.read_text().strip())
        try:
            api_client = config.new_client_from_config(  # type: ignore[no-untyped-call]
                kubeconfig, context=context, persist_config=False
            )
            return ClusterAccess(api_client, namespace or _own_namespace(kubeconfig, context))
        except _BAD_KUBECONFIG as error:
            why = str(error).rstrip(".")
            raise ConfigurationError(
                f"no usable kubeconfig: {why}. Give --kubeconfig FILE (and --context NAME) or set KUBECONFIG."
            ) from error

    def tasks(self, *, everywhere: bool, active: bool, repository: str | None) -> Iterator[AgentTask]:
        """Yield the tasks, read page by page. The letter case of the repository is ignored, as on forges."""
        options: dict[str, Any] = {"limit": _PAGE, "_request_timeout": _TIMEOUT}
        if active:
            options["field_selector"] = NOT_ENDED
        while True:
            with sentences("list agenttasks"):
                if everywhere:
                    page = self._tasks.list_cluster_custom_object(GROUP, VERSION, PLURAL, **options)
                else:
                    page = self._tasks.list_namespaced_custom_object(*self._where, **options)
            for body in page["items"]:
                # We compare here, because the API server can only compare exactly.
                if repository is None or _repository_of(body).lower() == repository.lower():
                    yield AgentTask.of(body)
            token = page["metadata"].get("continue")
            if not token:
                return
            options["_continue"] = token

    def task(self, name: str) -> AgentTask:
        """Return the task with the given name."""
        with sentences(f"get agenttask {name}", missing=self._no_task(name)):
            found = self._tasks.get_namespaced_custom_object(*self._where, name, _request_timeout=_TIMEOUT)
        return AgentTask.of(found)

    def runs(self, item: Item) -> list[AgentTask]:
        """Return the tasks with the item's label, read consistently."""
        selector = f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"
        with sentences("list agenttasks"):
            found = self._tasks.list_namespaced_custom_object(
                *self._where, label_selector=selector, _request_timeout=_TIMEOUT
            )
        return [AgentTask.of(body) for body in found["items"]]

    def create(self, manifest: Body) -> None:
        """Create a task. It names our account as its creator if the API server tells us the account."""
        name, metadata = Metadata.of(manifest).name, manifest["metadata"]
        if account := self._account():
            annotations = {**metadata.get("annotations", {}), ANNOTATION_CREATED_BY: account}
            manifest = {**manifest, "metadata": {**metadata, "annotations": annotations}}
        taken = f"somebody else has just created {name}: see `kubectl agenttask describe {name}`."
        with sentences(f"create agenttask {name}", conflict=taken):
            self._tasks.create_namespaced_custom_object(
                *self._where, manifest, field_manager="kubectl-agenttask", _request_timeout=_TIMEOUT
            )

    def _account(self) -> str:
        """Return our account's name; empty if the API server does not tell it, because it is optional."""
        try:
            review: Any = client.AuthenticationV1Api(self.api_client).create_self_subject_review(
                client.V1SelfSubjectReview(), _request_timeout=_TIMEOUT
            )
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""
        return str(review.status.user_info.username or "")

    def patch_spec(self, name: str, **spec: Any) -> None:
        """Change the spec of a task."""
        with sentences(f"patch agenttask {name}", missing=self._no_task(name)):
            self._tasks.patch_namespaced_custom_object(
                *self._where,
                name,
                {"spec": spec},
                field_manager="kubectl-agenttask",
                _request_timeout=_TIMEOUT,
            )

    def pods(self, task: str) -> list[Body]:
        """Return the existing pods of a task's attempts."""
        with sentences("list pods"):
            found = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{LABEL_TASK}={task}",
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        return list(json.loads(found.data)["items"])

    def create_pod(self, manifest: Body) -> str:
        """Create a pod and return its name."""
        with sentences("create pods"):
            created = self._core.create_namespaced_pod(
                self.namespace, manifest, field_manager="kubectl-agenttask", _request_timeout=_TIMEOUT
            )
        return str(created.metadata.name)

    def pod(self, name: str) -> Body:
        """Return the pod with the given name."""
        with sentences(f"get pod {name}", missing=f"somebody deleted the pod {name}."):
            found = self._core.read_namespaced_pod(
                name, self.namespace, _preload_content=False, _request_timeout=_TIMEOUT
            )
        return dict(json.loads(found.data))

    def delete_pod(self, name: str) -> None:
        """Delete a pod at once; do nothing if it is gone already."""
        with sentences(f"delete pod {name}"), suppress(NotFoundException):
            self._core.delete_namespaced_pod(
                name, self.namespace, grace_period_seconds=0, _request_timeout=_TIMEOUT
            )

    def events(self, task: str) -> list[Body]:
        """Return the Kubernetes Events about a task; the oldest is first."""
        with sentences("list events"):
            found = self._core.list_namespaced_event(
                self.namespace,
                field_selector=f"involvedObject.kind=AgentTask,involvedObject.name={task}",
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        events = list(json.loads(found.data)["items"])
        return sorted(events, key=_moment)

    def log(self, pod: str, container: str, *, follow: bool) -> Iterator[bytes]:
        """Yield a container's log as it arrives; with `follow`, until the container ends."""
        with sentences(f"read the log of pod {pod}", missing=f"pod {pod} is gone, and its log with it."):
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                _preload_content=False,
                _request_timeout=(_TIMEOUT, _SILENCE if follow else _TIMEOUT),
            )
            yield from answer.stream(65_536)

    @property
    def _where(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def _no_task(self, name: str) -> str:
        return (
            f"there is no agenttask {name} in namespace {self.namespace}: see `kubectl agenttask list`, "
            "or `list -A` for all namespaces."
        )


def attempt_of_pod(pod: Mapping[str, Any]) -> int:
    """Return the number of the attempt to which a pod belongs; 0 if it is unknown."""
    value = Metadata.of(pod).labels.get(LABEL_ATTEMPT, "")
    return int(value) if value.isdigit() else 0


def choose(pods: Sequence[Mapping[str, Any]], attempt: int | None) -> Mapping[str, Any] | None:
    """Return the newest pod of an attempt, by default of the last attempt that has a pod.

    Raises:
        PluginError: this attempt has no pod, but others have one.
    """
    numbers = sorted({attempt_of_pod(pod) for pod in pods})
    if not numbers:
        return None
    wanted = numbers[-1] if attempt is None else attempt
    if wanted not in numbers:
        there = ", ".join(str(number) for number in numbers)
        raise PluginError(f"attempt {wanted} has no pod. Attempts that have one: {there}.")
    of_attempt = [pod for pod in pods if attempt_of_pod(pod) == wanted]
    return max(of_attempt, key=lambda pod: Metadata.of(pod).created)


def has_started(pod: Mapping[str, Any], container: str) -> bool:
    """Whether the container has started and so has a log.

    Raises:
        PluginError: the pod has no such container.
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    names = [known["name"] for key in ("containers", "initContainers") for known in spec.get(key) or ()]
    if container not in names:
        raise PluginError(
            f"pod {Metadata.of(pod).name} has no container {container}: choose --container "
            f"{' or '.join(names)}."
        )
    states = [
        known.get("state") or {}
        for key in ("containerStatuses", "initContainerStatuses")
        for known in status.get(key) or ()
        if known["name"] == container
    ]
    return any("running" in state or "terminated" in state for state in states)


def waiting_for(pod: Mapping[str, Any]) -> str:
    """Return the cluster's reason why a pod has not started."""
    status = pod.get("status") or {}
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "PodInitializing"):
                return str(waiting["reason"])
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "not scheduled")
    return str(status.get("phase") or "Pending")


def hosts_pod(image: str, pull_secret: str | None = None) -> Body:
    """Return the pod of `hosts`, which the restricted Pod Security Standard admits."""
    script = files("kubectl_agenttask").joinpath("hosts.sh").read_text(encoding="utf-8")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": HOSTS_DEADLINE,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "home", "emptyDir": {"sizeLimit": "256Mi"}}],
        "containers": [
            {
                "name": HOSTS_CONTAINER,
                "image": image,
                "command": ["sh", "-c", script],
                # As in a workspace, settings in the home folders of the image's users do not count.
                "env": [{"name": "HOME", "value": _HOME}],
                "resources": {
                    "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"},
                    "limits": {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "512Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "home", "mountPath": _HOME}],
            }
        ],
    }
    if pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": pull_secret}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "agenttask-hosts-",
            "labels": {"app.kubernetes.io/name": "kubectl-agenttask"},
        },
        "spec": spec,
    }


def _repository_of(task: Body) -> str:
    return str(((task.get("spec") or {}).get("source") or {}).get("repository") or "")


def _moment(event: Body) -> tuple[str, int]:
    """Return the sort key of an Event: when it last occurred, and then the order of writing."""
    version = Metadata.of(event).version
    time = str(event.get("lastTimestamp") or event.get("eventTime") or "")
    return time, int(version) if version.isdigit() else 0


def _own_namespace(kubeconfig: str | None, context: str | None) -> str:
    contexts, current = config.list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
    chosen = next((candidate for candidate in contexts if candidate["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


@contextmanager
def sentences(what: str, *, missing: str | None = None, conflict: str | None = None) -> Iterator[None]:
    """Turn errors of requests to the API server into `PluginError`.

    Args:
        what: the request, as in `you may not …`.
        missing: the sentence for an object that does not exist.
        conflict: the sentence for an object that exists already.
    """
    try:
        yield
    except ApiException as error:
        said = _said(error)
        if error.status in (401, 403):
            raise DeniedError(
                f"the API server does not let you {what}: {said}. Ask for that permission, or choose another "
                "--context."
            ) from error
        if error.status == 404:
            # If the cluster does not have the resource at all, the server's answer is plain text.
            unknown = "page not found" in said
            hint = (
                "this cluster does not know agenttasks: apply crds/agenttask.yaml, or choose another "
                "--context."
            )
            raise PluginError(hint if unknown or missing is None else missing) from error
        if error.status == 409 and conflict:
            raise PluginError(conflict) from error
        raise PluginError(f"cannot {what}: the API server answers {error.status}: {said}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UnreachableError(
            f"cannot {what}: the API server does not answer ({_last(error)}). Is the cluster up, and the "
            "context the right one?"
        ) from error


def _said(error: ApiException) -> str:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()[:300] or str(error.reason)


def _last(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error)[:200]
