"""Builds the Job of an attempt with facts from the cluster: the repository's cache volume
(docs/decisions/0027) and the address of the egress proxy."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, cast
from urllib.parse import urlsplit

from coding_agent_core.kubernetes.transport import ApiError, Body
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.connections import Egress
from coding_agent_core.settings.job_settings import MIRROR_VARIABLE, Cache, JobTemplate
from coding_agent_core.settings.model import Engine, Settings
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_core.task.agenttask import LABEL_PLATFORM, LABEL_REPOSITORY, AgentTask, Event, labels_for
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Item
from coding_agent_core.task.objects import Metadata
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.settings import GitHub

from coding_agent_operator.cluster.observed import ATTEMPT, MANAGER
from coding_agent_operator.cluster.requests import Cluster
from coding_agent_operator.jobs.evidence_job import build_evidence_job
from coding_agent_operator.jobs.job import (
    build_job,
    with_egress,
    with_kueue_labels,
    with_token_credential,
    with_transcript_annotations,
)
from coding_agent_operator.jobs.pod_spec import init_container, mount
from coding_agent_operator.tasks.budgets import next_allowance
from coding_agent_operator.tasks.evidence import EvidencePod

_logger = logging.getLogger("operator.job_builder")

PACKAGES = "/var/cache/coding-agent"
"""The folder in the workspace that contains the package managers' caches."""
MIRROR = "/var/cache/mirror"
"""The folder of the repository's mirror in the agent's container."""
ANNOTATION_REPOSITORY = "coding-agent.dev/repository-path"
"""The annotation of volume claims that tells people the repository, such as `github.com/acme/shop`."""
COMPONENT = "cache"
_SHARED = "/var/cache/shared"
_VOLUME, _COPY = "repository-cache", "repository-cache-copy"

VARIABLES = {
    "CARGO_HOME": f"{PACKAGES}/cargo",
    "GOMODCACHE": f"{PACKAGES}/go",
    "GRADLE_USER_HOME": f"{PACKAGES}/gradle",
    "MAVEN_ARGS": f"-Dmaven.repo.local={PACKAGES}/maven",
    "PIP_CACHE_DIR": f"{PACKAGES}/pip",
    "UV_CACHE_DIR": f"{PACKAGES}/uv",
    "YARN_CACHE_FOLDER": f"{PACKAGES}/yarn",
    "npm_config_cache": f"{PACKAGES}/npm",
}
"""The variables that package managers read, as each one's documentation says."""
_RESOLVE_S = 5.0
_EVENT_TRIES, _EVENT_INTERVAL_S = 10, 0.3
"""How often, and with which pause, we look for the first Event about a volume claim. If there is none, the
attempt gets the volume claim."""


class JobBuilder:
    """Builds the Jobs of a namespace's attempts."""

    def __init__(self, cluster: Cluster, settings: Settings, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._now = now
        self._caches = RepositoryCaches(cluster, settings.operator.job)
        self._proxy = EgressProxy(settings.egress)
        self._tokens = TokenCredentials(settings, cluster.namespace, now)

    async def build(self, task: AgentTask, number: int) -> Mapping[str, Any]:
        """Return the manifest of attempt `number`.

        Raises:
            ApiError: something that the manifest needs cannot be read; retry later.
        """
        settings = self._settings
        allowance = next_allowance(task, settings.budgets)
        environment = self._environment_of(task)
        resources = settings.repository_environment.service_resources
        job = settings.operator.job
        manifest = build_job(task, number, job, allowance, environment=environment, resources=resources)
        manifest = with_transcript_annotations(manifest, task, number, settings.context_storage)
        if settings.queue.engine is Engine.KUEUE:
            manifest = with_kueue_labels(manifest, task, settings.queue.kueue)
        with_cache, event = await self._caches.given_to(manifest, task)
        if event is not None:
            await self._cluster.tasks.emit(event, task, self._now())
        with_credential = self._tokens.given_to(with_cache, Purpose.ATTEMPT, task.spec.item)
        return await self._proxy.given_to(with_credential, task.spec.item, environment.egress)

    async def build_evidence(self, task: AgentTask, pod: EvidencePod) -> Mapping[str, Any]:
        """Return the manifest of an evidence pod's Job. It gets no cache, because agents write to caches.

        Raises:
            ApiError: something that the manifest needs cannot be read; retry later.
        """
        settings = self._settings
        environment = self._environment_of(task)
        token = settings.forge(task.spec.item.platform).personal_access_token
        manifest: Mapping[str, Any] = build_evidence_job(
            task,
            pod.side,
            pod.number,
            settings.operator.job,
            commit=pod.commit,
            timeout_seconds=settings.verify.timeout_seconds,
            token_files={file.name for file in token.files},
            environment=environment,
            resources=settings.repository_environment.service_resources,
        )
        if settings.queue.engine is Engine.KUEUE:
            manifest = with_kueue_labels(manifest, task, settings.queue.kueue)
        manifest = self._tokens.given_to(manifest, Purpose.EVIDENCE, task.spec.item)
        return await self._proxy.given_to(manifest, task.spec.item, environment.egress)

    def environment_refusal(self, environment: Environment) -> str | None:
        """Return why the settings forbid an environment, as a sentence; `None` if they allow it.

        An attempt has checked it too, but an attempt runs code of strangers.
        """
        settings = self._settings
        return settings.repository_environment.pod_refusal(environment, settings.egress.presets)

    def _environment_of(self, task: AgentTask) -> Environment:
        """Return the environment that the last attempt asked for; an empty one if there is none.

        It is also empty if the settings forbid it, but then the task ends anyway.
        """
        asked = task.status.environment
        # The attempt runs a stranger's code, so what it asks for is checked against the operator's own
        # settings.
        return Environment() if asked is None or self.environment_refusal(asked) is not None else asked


def volume_claim_for(item: Item, cache: Cache) -> Body:
    """Return the volume claim of an item's repository. It has no owner, so it outlives all tasks. Pure."""
    spec: Body = {"accessModes": [cache.access_mode], "resources": {"requests": {"storage": cache.size}}}
    if cache.storage_class is not None:
        spec["storageClassName"] = cache.storage_class
    labels = labels_for(item)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            # This part of the hash is longer than in labels, so that nobody can find a repository with the
            # same hash and share its cache.
            "name": f"coding-agent-cache-{sha256(item.repository_identity.encode()).hexdigest()[:32]}",
            "labels": {
                LABEL_PLATFORM: labels[LABEL_PLATFORM],
                LABEL_REPOSITORY: labels[LABEL_REPOSITORY],
                "app.kubernetes.io/managed-by": MANAGER,
                "app.kubernetes.io/component": COMPONENT,
            },
            "annotations": {ANNOTATION_REPOSITORY: f"{item.host}/{item.repository}"},
        },
        "spec": spec,
    }


def waits_for_class(volume_claim: Body) -> bool:
    """Whether a volume claim waits for the StorageClass that it names to provide its volume. Pure."""
    phase, spec = (volume_claim.get("status") or {}).get("phase"), volume_claim["spec"]
    return phase == "Pending" and bool(spec.get("storageClassName")) and not spec.get("volumeName")


def why_unusable(volume_claim: Body, events: Sequence[tuple[str, str]] = ()) -> str | None:
    """Return why no further pod can use this volume claim, or `None` if it is or may become usable. Pure.

    Args:
        events: reasons and messages of the volume claim's Events; the newest is last.
    """
    if Metadata.of(volume_claim).deleting:
        return "it is being deleted"
    phase, spec = (volume_claim.get("status") or {}).get("phase"), volume_claim["spec"]
    if phase == "Lost":
        return "its volume is gone; delete the volume claim"
    if phase == "Pending" and not spec.get("storageClassName") and not spec.get("volumeName"):
        # The API server fills in the default class when the volume claim is created, or once there is one.
        return (
            "it has no volume, and the cluster has no default StorageClass that could make one; set "
            "`operator.job.cache.storage_class` and delete the volume claim, or create a volume for it"
        )
    if waits_for_class(volume_claim) and events:
        # Only the Event shows this, because reading StorageClasses needs a right in the whole cluster. Its
        # text `storageclass.storage.k8s.io "x" not found` is from pkg/api/errors, NewNotFound.
        (reason, message), name = events[-1], spec["storageClassName"]
        if reason == "ProvisioningFailed" and f'"{name}" not found' in message:
            return (
                f'it has no volume, because the StorageClass "{name}" does not exist; create the class or a '
                "volume for the claim, or set `operator.job.cache.storage_class` to one of `kubectl get "
                "storageclass` and delete the claim"
            )
    return None


def with_cache(
    manifest: Mapping[str, Any], volume_claim: Body, template: JobTemplate, *, trusted: bool
) -> Body:
    """Return the manifest of an attempt's Job with a mount of the repository's cache. Pure.

    The workspace of a trusted task writes to the volume itself. The workspace of any other task gets a copy,
    which an init container makes from a read-only mount of the volume. Package managers use this copy like
    their own cache, and such a workspace cannot write to the volume.

    Args:
        trusted: whether neither a fork nor a stranger wrote the item (`spec.trusted`).
    """
    job = manifest["spec"]
    pod = job["template"]["spec"]
    *programs, workspace = pod["initContainers"]
    [agent] = pod["containers"]
    volumes = [{"name": _VOLUME, "persistentVolumeClaim": {"claimName": Metadata.of(volume_claim).name}}]
    workspace = _with_variables(workspace, VARIABLES)
    if trusted:
        workspace = _mounting(workspace, mount(_VOLUME, PACKAGES, sub_path="packages"))
    else:
        # A stranger's build must not leave anything for the next attempt, so it works on a copy.
        volumes.append({"name": _COPY, "emptyDir": {"sizeLimit": "16Gi"}})
        workspace = _mounting(workspace, mount(_COPY, PACKAGES))
        # The copy belongs to the user of the workspace, who has to be able to write to it.
        programs = [*programs, _copying(template, workspace["securityContext"])]
    agent = _mounting(agent, mount(_VOLUME, MIRROR, sub_path="mirror", read_only=not trusted))
    agent = _with_variables(agent, {MIRROR_VARIABLE: MIRROR})
    pod = {
        **pod,
        "initContainers": [*programs, workspace],
        "containers": [agent],
        "volumes": [*pod["volumes"], *volumes],
    }
    if volume_claim["spec"]["accessModes"] == ["ReadWriteOnce"]:
        pod["affinity"] = _on_one_node(pod.get("affinity") or {}, Metadata.of(job["template"]).labels)
    return {**manifest, "spec": {**job, "template": {**job["template"], "spec": pod}}}


def _copying(template: JobTemplate, security: Body) -> Body:
    copied = ("packages", _SHARED, PACKAGES)
    shared = mount(_VOLUME, _SHARED, sub_path="packages", read_only=True)
    return init_container("cache", template, copied, security, [shared, mount(_COPY, PACKAGES)])


def _mounting(container: Mapping[str, Any], one: Body) -> Body:
    return {**container, "volumeMounts": [*container.get("volumeMounts", ()), one]}


def _with_variables(container: Mapping[str, Any], values: Mapping[str, str]) -> Body:
    """Add the variables to the container, except those that `pod_template` sets."""
    given = list(container.get("env") or ())
    names = {entry["name"] for entry in given}
    return {
        **container,
        "env": [
            *given,
            *({"name": key, "value": value} for key, value in values.items() if key not in names),
        ],
    }


def _on_one_node(affinity: Mapping[str, Any], labels: Mapping[str, str]) -> Body:
    """Bind the pod to the node of the repository's other attempts: elsewhere the volume cannot be mounted.

    Kubernetes would otherwise place the pod on another node, where its deadline would pass while it waits.
    """
    same = {"app.kubernetes.io/component": ATTEMPT, LABEL_REPOSITORY: labels[LABEL_REPOSITORY]}
    term = {"labelSelector": {"matchLabels": same}, "topologyKey": "kubernetes.io/hostname"}
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    pods = affinity.get("podAffinity") or {}
    return {**affinity, "podAffinity": {**pods, key: [*(pods.get(key) or ()), term]}}


class RepositoryCaches:
    """Adds repositories' caches to the Jobs of a namespace's attempts."""

    def __init__(self, cluster: Cluster, template: JobTemplate) -> None:
        self._cluster = cluster
        self._template = template

    async def given_to(
        self, manifest: Mapping[str, Any], task: AgentTask
    ) -> tuple[Mapping[str, Any], Event | None]:
        """Add the repository's cache to the manifest of an attempt's Job.

        Returns:
            The manifest, and an Event if the attempt starts without a cache because the cluster has none.

        Raises:
            ApiError: the API server does not answer; retry later.
        """
        cache = self._template.cache
        if not cache.enabled:
            return manifest, None
        wanted = volume_claim_for(task.spec.item, cache)
        name = Metadata.of(wanted).name
        try:
            found = await self._cluster.get_volume_claim(name)
            volume_claim = found or await self._cluster.create_volume_claim(wanted)
            problem = why_unusable(volume_claim, await self._events_of(volume_claim))
        except ApiError as error:
            # These pass by themselves. Any other refusal lets the attempt start without its cache.
            if error.status is None or error.status >= 500 or error.status in (409, 429):
                raise
            problem = str(error)
        if problem is not None:
            text = f"The attempt starts without the cache {name}: {problem}"
            _logger.warning("%s: %s", task.name, text)
            return manifest, Event("Warning", "CacheUnavailable", text[:1000])
        # We use the existing volume claim's own values, because the settings may have changed since.
        return with_cache(manifest, volume_claim, self._template, trusted=task.spec.trusted), None

    async def _events_of(self, volume_claim: Body) -> list[tuple[str, str]]:
        """Return the Events of a volume claim without a volume; a new one has an Event within a second.

        Raises:
            ApiError: the Events cannot be read.
        """
        if waits_for_class(volume_claim):
            for _ in range(_EVENT_TRIES):
                if events := await self._cluster.volume_claim_events(Metadata.of(volume_claim).uid):
                    return events
                await asyncio.sleep(_EVENT_INTERVAL_S)
        return []


class TokenCredentials:
    """Adds credentials to Jobs, with which they ask the token service for tokens of a GitHub App."""

    def __init__(self, settings: Settings, namespace: str, now: Callable[[], datetime]) -> None:
        self._namespace = namespace
        github = cast("GitHub", settings.forge(Platform.GITHUB))
        self._service = github.app.service if github.app is not None else None
        self._host = github.host
        self._key = Secrets(self._service.key if self._service is not None else SecretSettings())
        self._queued = settings.queue.engine is Engine.KUEUE
        self._now = now

    def given_to(self, manifest: Mapping[str, Any], purpose: Purpose, item: Item) -> Mapping[str, Any]:
        """Add a credential, if there is a token service for the item's host, to the manifest of a Job.

        Raises:
            ApiError: the key is missing or too short; retry later.
        """
        if self._service is None or item.host.lower() != self._host.lower():
            return manifest
        try:
            return with_token_credential(
                manifest,
                purpose,
                item,
                namespace=self._namespace,
                key=self._key.first() or "",
                now=self._now(),
                queued=self._queued,
            )
        except ValueError as error:
            raise ApiError(f"github.app.service.key: attempts cannot get tokens: {error}", None) from error


class EgressProxy:
    """Connects attempts to the egress proxy that the settings name."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._key = Secrets(egress.key)

    async def given_to(
        self, manifest: Mapping[str, Any], item: Item, presets: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """Add the egress proxy, if there is one, to the manifest of an attempt's Job.

        Raises:
            ApiError: the proxy's name cannot be resolved, or its key is missing; retry later. An attempt
                never starts without the proxy.
        """
        if self._egress.proxy is None:
            return manifest
        key = self._key.first()
        if key is None:
            raise ApiError("egress.key is not set, and attempts need it for the egress proxy", None)
        address = await address_of(self._egress.proxy)
        return with_egress(manifest, item, self._egress, address=address, key=key, presets=presets)


async def address_of(url: str) -> str:
    """Resolve a URL's host; return address and port in the notation of URLs.

    Raises:
        ApiError: the name cannot be resolved within 5 seconds.
    """
    parts = urlsplit(url)
    port = parts.port or 80
    try:
        async with asyncio.timeout(_RESOLVE_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        problem = str(error) or f"no answer within {_RESOLVE_S:g} s"
        text = f"egress.proxy: the address of {parts.hostname} cannot be found: {problem}"
        raise ApiError(text, None) from error
    address = str(found[0][4][0])
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
