"""Sends requests to the API server, each with a timeout, and reads pods. Errors become sentences."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import urllib3
import yaml
from coding_agent_core.task.agenttask import (
    ANNOTATION_CANCELLED_BY,
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
from coding_agent_core.task.model import Item
from coding_agent_core.task.objects import Metadata
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, NotFoundException
from kubernetes.watch import Watch

from kubectl_agenttask import ConfigurationError, DeniedError, NotFoundError, PluginError, UnreachableError
from kubectl_agenttask.argument_types import similar
from kubectl_agenttask.references import Reference

_BAD_KUBECONFIG = (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError)
_TIMEOUT = 10
"""Maximum number of seconds for one request."""
_SILENCE = 86_400
"""Maximum number of seconds for which a container may write nothing while its log is followed."""
_PAGE = 500
_WATCH = 300.0
"""Maximum number of seconds of one watch. The next one begins with a list."""
_RECONNECTS = 10
"""Maximum number of times in a row that a watch begins again after the API server did not answer."""
_PAUSE = 1.0
"""Seconds between the end of a watch and the beginning of the next one."""
_BUSY = 429
"""The status of an API server that is busy, or that reads the tasks again after a change of the CRD."""
_GONE = 410
"""The status of an expired watch: https://kubernetes.io/docs/reference/using-api/api-concepts/"""
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
        for page in self._pages(everywhere=everywhere, selector=NOT_ENDED if active else ""):
            # We compare here, because the API server can only compare exactly.
            yield from (AgentTask.of(body) for body in page["items"] if is_of(body, repository))

    def find(self, text: str) -> AgentTask:
        """Return the task that a person names; of an item, the newest run.

        Raises:
            UsageError: the text names no task.
            NotFoundError: there is no such task, or tasks of several items match.
        """
        reference = Reference.parse(text)
        return reference.newest(self.matching(reference))

    def matching(self, reference: Reference) -> list[AgentTask]:
        """Return all tasks that a person means; there is at least one.

        Raises:
            NotFoundError: there is no such task.
        """
        if reference.name:
            return [self.task(reference.name)]
        # The API server compares letter case. So the second list, which reads all tasks, is for another case.
        for selector in (f"spec.source.repository={reference.repository}", ""):
            tasks = [
                task
                for page in self._pages(everywhere=False, selector=selector)
                for task in map(AgentTask.of, page["items"])
                if reference.matches(task)
            ]
            if tasks:
                return tasks
        raise NotFoundError(
            f"no agenttask in namespace {self.namespace} is about {reference.text}: "
            "`kubectl agenttask list -A` shows all, `kubectl agenttask run URL` starts one."
        )

    def changes(self, *, everywhere: bool, selector: str, seconds: float) -> Iterator[tuple[AgentTask, bool]]:
        """Yield the tasks as they are, and then each change of one, until the time is over.

        Each request lists first, so that no change is lost after a pause; a task is yielded again only if it
        has changed.

        Args:
            selector: a field selector, such as `NOT_ENDED` or `metadata.name=NAME`.

        Yields:
            A task, and whether it still exists and matches the selector.

        Raises:
            UnreachableError: the API server did not answer `_RECONNECTS` times in a row.
        """
        end, failures, known = time.monotonic() + seconds, 0, dict[str, AgentTask]()
        while (left := end - time.monotonic()) > 0:
            try:
                for task, there in self._listed_and_watched(everywhere, selector, left, list(known.values())):
                    failures = 0
                    before = known.pop(task.uid, None)
                    if there:
                        known[task.uid] = task
                    if before is None or not there or before.version != task.version:
                        yield task, there
            except UnreachableError:
                failures += 1
                if failures > _RECONNECTS:
                    raise
            # A server or proxy that ends each watch at once must not be asked without a pause.
            time.sleep(max(0.0, min(_PAUSE, end - time.monotonic())))

    def _listed_and_watched(
        self, everywhere: bool, selector: str, seconds: float, known: Sequence[AgentTask]
    ) -> Iterator[tuple[AgentTask, bool]]:
        """Yield the stored tasks, then the known tasks that are gone, then the changes of one watch."""
        tasks, version = dict[str, AgentTask](), ""
        for page in self._pages(everywhere=everywhere, selector=selector):
            version = page["metadata"]["resourceVersion"]
            for body in page["items"]:
                task = AgentTask.of(body)
                tasks[task.uid] = task
                yield task, True
        for task in known:
            if task.uid not in tasks:
                yield task, False
        lasts = max(1, int(min(seconds, _WATCH)))
        listing, where = self._listing(everywhere)
        with sentences("watch agenttasks"):
            try:
                for event in Watch().stream(  # type: ignore[no-untyped-call]
                    listing,
                    *where,
                    field_selector=selector,
                    resource_version=version,
                    timeout_seconds=lasts,
                    # The server ends the watch. If the connection is dead, nothing arrives for longer.
                    _request_timeout=(_TIMEOUT, lasts + _TIMEOUT),
                ):
                    yield AgentTask.of(event["object"]), event["type"] != "DELETED"
            except ApiException as error:
                if error.status != _GONE:
                    raise

    def _pages(self, *, everywhere: bool, selector: str) -> Iterator[Body]:
        """Yield the pages of a list of tasks; their `resourceVersion` is the same."""
        options: dict[str, Any] = {"limit": _PAGE, "_request_timeout": _TIMEOUT}
        if selector:
            options["field_selector"] = selector
        listing, where = self._listing(everywhere)
        while True:
            with sentences("list agenttasks"):
                page = listing(*where, **options)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            options["_continue"] = token

    def _listing(self, everywhere: bool) -> tuple[Any, tuple[str, ...]]:
        """Return the function that lists tasks, and its arguments."""
        if everywhere:
            return self._tasks.list_cluster_custom_object, (GROUP, VERSION, PLURAL)
        return self._tasks.list_namespaced_custom_object, self._where

    def task(self, name: str) -> AgentTask:
        """Return the task with the given name.

        Raises:
            NotFoundError: there is none; the message names similar ones.
        """
        try:
            with sentences(f"get agenttask {name}", missing=self._no_task(name)):
                found = self._tasks.get_namespaced_custom_object(
                    *self._where, name, _request_timeout=_TIMEOUT
                )
        except NotFoundError as error:
            raise NotFoundError(f"{error}{self._hint(name)}") from error
        return AgentTask.of(found)

    def stored(self, task: AgentTask) -> AgentTask | None:
        """Return a task as it is stored now; `None` if it was deleted."""
        where = (GROUP, VERSION, task.namespace, PLURAL, task.name)
        with sentences(f"get agenttask {task.name}"):
            try:
                found = self._tasks.get_namespaced_custom_object(*where, _request_timeout=_TIMEOUT)
            except NotFoundException:
                return None
        return AgentTask.of(found)

    def _hint(self, name: str) -> str:
        """Return a sentence with similar names; empty if there are none or we may not list tasks."""
        try:
            close = similar(
                name, (t.name for t in self.tasks(everywhere=False, active=False, repository=None))
            )
        except PluginError:
            return ""
        return f" Did you mean {' or '.join(close)}?" if close else ""

    def runs(self, item: Item) -> list[AgentTask]:
        """Return the tasks with the item's label, read consistently."""
        selector = f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"
        with sentences("list agenttasks"):
            found = self._tasks.list_namespaced_custom_object(
                *self._where, label_selector=selector, _request_timeout=_TIMEOUT
            )
        return [AgentTask.of(body) for body in found["items"]]

    def create(self, manifest: Body) -> AgentTask:
        """Create a task and return it.

        The task names our account as its creator, if the API server tells us the account.
        """
        name, metadata = Metadata.of(manifest).name, manifest["metadata"]
        if account := self._account():
            annotations = {**metadata.get("annotations", {}), ANNOTATION_CREATED_BY: account}
            manifest = {**manifest, "metadata": {**metadata, "annotations": annotations}}
        taken = f"somebody else has just created {name}: see `kubectl agenttask describe {name}`."
        with sentences(f"create agenttask {name}", conflict=taken):
            created = self._tasks.create_namespaced_custom_object(
                *self._where, manifest, field_manager="kubectl-agenttask", _request_timeout=_TIMEOUT
            )
        return AgentTask.of(created)

    def _account(self) -> str:
        """Return our account's name; empty if the API server does not tell it, because it is optional."""
        try:
            review: Any = client.AuthenticationV1Api(self.api_client).create_self_subject_review(
                client.V1SelfSubjectReview(), _request_timeout=_TIMEOUT
            )
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""
        return str(review.status.user_info.username or "")

    def cancel(self, name: str) -> AgentTask:
        """Cancel a task, note which account did, and return the task."""
        account = self._account()
        metadata = {"metadata": {"annotations": {ANNOTATION_CANCELLED_BY: account}}} if account else {}
        return self._patch(name, {"spec": {"cancel": True}, **metadata})

    def patch_spec(self, name: str, **spec: Any) -> AgentTask:
        """Change the spec of a task, and return the task."""
        return self._patch(name, {"spec": spec})

    def _patch(self, name: str, body: Body) -> AgentTask:
        with sentences(f"patch agenttask {name}", missing=self._no_task(name)):
            changed = self._tasks.patch_namespaced_custom_object(
                *self._where,
                name,
                body,
                field_manager="kubectl-agenttask",
                _request_timeout=_TIMEOUT,
            )
        return AgentTask.of(changed)

    def delete(self, task: AgentTask) -> bool:
        """Delete a task as it was read; return `False` if it has changed since or is gone."""
        with sentences(f"delete agenttask {task.name}"):
            try:
                self._tasks.delete_namespaced_custom_object(
                    *self._where,
                    task.name,
                    body={"preconditions": {"uid": task.uid, "resourceVersion": task.version}},
                    _request_timeout=_TIMEOUT,
                )
            except ApiException as error:
                if error.status in (404, 409):
                    return False
                raise
        return True

    def pods(self, task: str) -> list[Body]:
        """Return the existing pods of a task's attempts."""
        with sentences("list pods"):
            listed = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{LABEL_TASK}={task}",
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        return list(json.loads(listed.data)["items"])

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
            listed = self._core.list_namespaced_event(
                self.namespace,
                field_selector=f"involvedObject.kind=AgentTask,involvedObject.name={task}",
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        events = list(json.loads(listed.data)["items"])
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


def is_of(task: Mapping[str, Any], repository: str | None) -> bool:
    """Whether a task belongs to a repository, in any letter case; `None` stands for every repository."""
    return repository is None or _repository_of(task).lower() == repository.lower()


def _repository_of(task: Mapping[str, Any]) -> str:
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
    """Convert errors of requests to the API server into `PluginError`.

    Args:
        what: the request, as the end of the sentence `you may not …`.
        missing: the sentence for an object that does not exist.
        conflict: the sentence for an object that exists already.
    """
    try:
        yield
    except ApiException as error:
        message = _said(error)
        if error.status in (401, 403):
            raise DeniedError(
                f"the API server does not let you {what}: {message}. Ask for {_lacking(message)}, or choose "
                "another --context."
            ) from error
        if error.status == 404:
            # If the cluster does not have the resource at all, the server's answer is plain text.
            if "page not found" in message and "agenttask" in what:
                raise ConfigurationError(
                    "this cluster does not have the resource agenttasks: install the chart (`kubectl "
                    "agenttask init` prepares it), apply crds/agenttask.yaml, or choose another --context."
                ) from error
            if missing is not None:
                raise NotFoundError(missing) from error
        if error.status == 409 and conflict:
            raise PluginError(conflict) from error
        problem = UnreachableError if error.status == _BUSY or error.status >= 500 else PluginError
        raise problem(f"cannot {what}: the API server answers {error.status}: {message}") from error
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


def _lacking(said: str) -> str:
    """Return the permission that the API server names when it denies a request."""
    found = re.search(r'cannot (\w+) resource "([^"]+)"', said)
    return "that permission" if found is None else f"the verb {found[1]} on {found[2]}"


def _last(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error)[:200]
