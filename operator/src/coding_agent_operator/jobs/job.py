"""Builds the Job of an attempt, and the input of its agent, from plain data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coding_agent_core.settings.attempt_settings import ServiceResources
from coding_agent_core.settings.connections import ContextStorage, Egress
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.model import Kueue
from coding_agent_core.task.agenttask import (
    ANNOTATION_ALLOWANCE,
    ANNOTATION_TRANSCRIPT,
    ANNOTATION_TRANSCRIPT_URL,
    API_VERSION,
    KIND,
    LABEL_ACTIVE,
    LABEL_ATTEMPT,
    LABEL_DEFAULTED,
    LABEL_TASK,
    AgentTask,
    Spec,
    Status,
    TaskResult,
    labels_for,
)
from coding_agent_core.task.attempts import AttemptInput, EarlierAttempts, ended_line, transcript_key
from coding_agent_core.task.egress import WORKSPACE_PROXY, Role, user_name, variables
from coding_agent_core.task.environment import SERVICE_PREFIX, Environment
from coding_agent_core.task.model import Item
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import ExitCode
from coding_agent_core.task.runs import answered_by
from coding_agent_core.task.usage import Allowance, Usage
from coding_agent_forges.github.app_settings import Purpose

from coding_agent_operator.cluster.observed import (
    AGENT_CONTAINER,
    ATTEMPT,
    CLONE_CONTAINER,
    MANAGER,
    QUEUE_LABEL,
    VERIFY_CONTAINER,
    job_name,
    label_value,
)
from coding_agent_operator.jobs.pod_spec import pod_spec

PERMANENT = (ExitCode.CANNOT, ExitCode.REFUSED, ExitCode.CONFIGURATION)
"""Exit codes that make the Job fail at once, whatever else its policy says."""
_ROOM = 3
"""A Job's deadline is this many times its pod's, to cover pods after disruptions and waits for nodes."""
_RECAP = 12_000
"""Maximum number of characters of the recap. It is part of one environment variable of at most 128 KiB."""
_CLOCKS = timedelta(minutes=5)
"""How far the clocks of operator and token service may differ."""
_IN_QUEUE = timedelta(days=7)
"""How long a Job may wait for quota. An attempt that waited longer gets no token, and the next one does."""
_NO_NAME_SERVER = "127.0.0.1"
"""Kubernetes requires an address if `dnsPolicy` is `None`. In a pod, nothing answers at this address."""

SHARED_SOCKET = {
    "dev.gvisor.spec.mount.socket.share": "pod",
    "dev.gvisor.spec.mount.socket.type": "tmpfs",
    "dev.gvisor.spec.mount.socket.options": "rw",
}
"""With these annotations, gVisor lets a pod's containers share the volume of the socket. Otherwise
each has its own view, in which it cannot reach the other's socket (its `pkg/shim/v1/utils/volumes.go`). Other
runtimes ignore them."""


def build_job(
    task: AgentTask,
    number: int,
    template: JobTemplate,
    allowance: Allowance | None = None,
    *,
    environment: Environment | None = None,
    resources: ServiceResources | None = None,
) -> dict[str, Any]:
    """Return the manifest of attempt `number`, which is always the same for the same arguments.

    Args:
        environment: the environment that the repository asked for, as far as the settings allow it.
        resources: the resources of each of its services.
    """
    attempt = attempt_input(task, number, allowance)
    if environment:
        attempt = attempt.model_copy(update={"environment": environment})
    annotations = {ANNOTATION_ALLOWANCE: allowance.model_dump_json(exclude_none=True)} if allowance else {}
    return job_manifest(
        task,
        job_name(task.name, number),
        pod_spec(template, attempt, resources or ServiceResources()),
        template,
        component=ATTEMPT,
        labels={LABEL_ATTEMPT: str(number)},
        annotations=annotations,
        container=AGENT_CONTAINER,
    )


def job_manifest(
    task: AgentTask,
    name: str,
    pod: Mapping[str, Any],
    template: JobTemplate,
    *,
    component: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    container: str,
) -> dict[str, Any]:
    """Return the manifest of a task's Job.

    Args:
        component: the value of the component label, by which NetworkPolicies select the pod.
        labels: further labels of Job and pod that say what the pod is for.
        annotations: the annotations of Job and pod: the attempt's allowance, or none. If there is an
            allowance, a disrupted pod fails the Job and is not replaced.
        container: the container whose exit code decides.
    """
    shared = {
        **{key: value for key, value in labels_for(task.spec.item).items() if key != LABEL_DEFAULTED},
        LABEL_TASK: label_value(task.name),
        **labels,
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/component": component,
    }
    metadata = template.pod_template.get("metadata", {})
    # The pod has the allowance too, because it can outlive its Job and may spend until it ends.
    shares = SHARED_SOCKET if pod.get("runtimeClassName") else {}
    pod_annotations = {**shares, **metadata.get("annotations", {}), **annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**shared, LABEL_ACTIVE: "true"},
            **({"annotations": dict(annotations)} if annotations else {}),
            "ownerReferences": [_owner_reference(task)],
        },
        "spec": {
            # The operator retries with a new Job, because the wait depends on the outcome. There is no TTL
            # yet: the Job could be deleted before its end is recorded, and the attempt would be repeated.
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            # Otherwise the replacement starts while the old pod is terminating, and two pods push to one
            # branch.
            "podReplacementPolicy": "Failed",
            # The pod's own deadline ends an attempt. The Job's covers a pod that waits or was replaced.
            "activeDeadlineSeconds": _ROOM * pod["activeDeadlineSeconds"],
            "podFailurePolicy": _pod_failure_policy(container, has_allowance=bool(annotations)),
            "template": {
                "metadata": {
                    **metadata,
                    "labels": {**metadata.get("labels", {}), **shared},
                    **({"annotations": pod_annotations} if pod_annotations else {}),
                },
                "spec": dict(pod),
            },
        },
    }


def _owner_reference(task: AgentTask) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": task.name,
        "uid": task.uid,
        "controller": True,
        # With `True`, the operator would need the right to write finalizers of AgentTasks.
        "blockOwnerDeletion": False,
    }


def _pod_failure_policy(container: str, *, has_allowance: bool) -> dict[str, Any]:
    """Return which ends of a pod fail the Job at once."""
    permanent = {
        "containerName": container,
        "operator": "In",
        "values": [code.value for code in PERMANENT],
    }
    return {
        "rules": [
            # A pod that replaces a disrupted one would have the whole allowance again. So if there is an
            # allowance, the Job fails, and the next attempt gets what is left.
            {
                "action": "FailJob" if has_allowance else "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {"action": "FailJob", "onExitCodes": permanent},
        ]
    }


def attempt_input(task: AgentTask, number: int, allowance: Allowance | None = None) -> AttemptInput:
    """Return the input of attempt `number`: the task, and the results of earlier attempts."""
    spec = task.spec
    # Fields with the same name in both models are options, which attempts get as they are.
    options = {
        name: getattr(spec, name) for name in AttemptInput.model_fields.keys() & Spec.model_fields.keys()
    }
    answered = answered_by(task)
    return AttemptInput(
        task=QueuedTask(request=spec.request, uuid=task.uid, run=spec.run, attempt=number),
        allowance=allowance,
        earlier=earlier_of(task.status),
        answered=None if answered is None else str(answered),
        **options,
    )


def earlier_of(status: Status) -> EarlierAttempts:
    """Return the results of earlier attempts from the status; a long recap loses its beginning."""
    result = status.result or TaskResult()
    ended = [attempt for attempt in status.attempts if attempt.outcome is not None]
    ends = [ended_line(attempt.number, attempt.message or attempt.reason or "") for attempt in ended]
    parts = ["\n".join(filter(None, (end, attempt.tail))) for end, attempt in zip(ends, ended, strict=True)]
    return EarlierAttempts(
        ended=ends[-1] if ends else "",
        branch=result.branch,
        change_url=result.change_url,
        recap="\n\n".join(parts)[-_RECAP:],
        transcripts=tuple(attempt.transcript for attempt in status.attempts if attempt.transcript),
        # If the usage of one attempt is unknown, a sum would be too small.
        usage=None if any(attempt.usage is None for attempt in ended) else result.usage or Usage(),
    )


def with_transcript_annotations(
    manifest: Mapping[str, Any], task: AgentTask, number: int, storage: ContextStorage
) -> dict[str, Any]:
    """Add the place of the transcript to the manifest of attempt `number`, if transcripts are kept."""
    key = transcript_key(task.spec.item, task.spec.run, task.uid, number)
    places = {ANNOTATION_TRANSCRIPT: storage.place_of(key), ANNOTATION_TRANSCRIPT_URL: storage.url_of(key)}
    notes = {name: place for name, place in places.items() if place is not None}
    if not notes:
        return dict(manifest)
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), **notes}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def with_kueue_labels(manifest: Mapping[str, Any], task: AgentTask, kueue: Kueue) -> dict[str, Any]:
    """Prepare the manifest of an attempt's Job for Kueue: suspended, in the queue of its repository.

    This follows Kueue's contract for plain Jobs (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/): they are
    created suspended, with the queue's name as label. Kueue sets `suspend: false` once there is quota, and
    `true` again to preempt the Job.
    """
    source = task.spec.source
    metadata, spec = manifest["metadata"], manifest["spec"]
    labels = {**metadata["labels"], QUEUE_LABEL: kueue.of(source.host, source.repository)}
    # `suspend` is not left to Kueue's webhook: in a cluster without Kueue, nothing must start.
    return {
        **manifest,
        "metadata": {**metadata, "labels": labels},
        "spec": {**spec, "suspend": True},
    }


def with_token_credential(
    manifest: Mapping[str, Any],
    purpose: Purpose,
    item: Item,
    *,
    namespace: str,
    key: str,
    now: datetime,
    queued: bool,
) -> dict[str, Any]:
    """Add a credential for tokens of the item's repository alone to the Job's container that uses the forge.

    The credential is valid until the Job's time limit has certainly passed.

    Args:
        namespace: the Job's namespace. The token service decides for which repositories it gets tokens.
        key: the key that the token service has too.
        queued: whether the Job waits in a queue, where its time limit does not run yet.

    Raises:
        ValueError: the key is too short.
    """
    # Only an installation with a GitHub App needs PyJWT, whose import takes longer than that of this package.
    from coding_agent_forges.github.auth.token_credential import CREDENTIAL_VARIABLE, TokenCredential, signed  # noqa: PLC0415

    spec = manifest["spec"]
    limit = (
        timedelta(seconds=spec["activeDeadlineSeconds"]) + _CLOCKS + (_IN_QUEUE if queued else timedelta())
    )
    credential = TokenCredential(
        job=manifest["metadata"]["name"],
        host=item.host,
        repository=item.repository,
        purpose=purpose,
        expires=now + limit,
        namespace=namespace,
    )
    text = signed(credential, key)
    pod = spec["template"]["spec"]

    def given(container: Mapping[str, Any]) -> Mapping[str, Any]:
        if container["name"] not in (AGENT_CONTAINER, CLONE_CONTAINER):
            return container
        # The workspace runs a stranger's code, so it gets no credential.
        return _with_variables(container, {CREDENTIAL_VARIABLE: text})

    pod = {**pod, **{kind: [given(one) for one in pod[kind]] for kind in ("initContainers", "containers")}}
    return {**manifest, "spec": {**spec, "template": {**spec["template"], "spec": pod}}}


def with_egress(
    manifest: Mapping[str, Any],
    item: Item,
    egress: Egress,
    *,
    address: str,
    key: str,
    presets: Sequence[str] = (),
) -> dict[str, Any]:
    """Add the proxy to the environment of a Job's pod, and take away its name server.

    Commands can print the workspace's own identity, so the containers that report their output know it too,
    to remove it.

    Args:
        address: the proxy's host and port.
        key: the key from which the proxy's passwords are derived.
        presets: further presets of hosts that the workspace may reach. The repository's services, and the
            container of an evidence pod that reports, get no identity for the proxy.
    """
    job = manifest["metadata"]["name"]
    profile = egress.profile(item.host, item.repository)
    agent = variables(address, user_name(job, Role.AGENT), key)
    workspace = variables(address, user_name(job, Role.WORKSPACE, profile, presets), key)
    removed = {WORKSPACE_PROXY: workspace["HTTPS_PROXY"]}
    template = manifest["spec"]["template"]
    pod = template["spec"]

    def connected(container: Mapping[str, Any]) -> Mapping[str, Any]:
        name = container["name"]
        if name.startswith(SERVICE_PREFIX):
            return container  # it needs no other host
        given = {
            AGENT_CONTAINER: {**agent, **removed},
            CLONE_CONTAINER: agent,
            VERIFY_CONTAINER: removed,  # it reports, and needs no other host
        }
        return _with_variables(container, given.get(name, workspace))

    pod = {
        **pod,
        # A name server would be a way out: a name can carry the content of a private repository.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": [_NO_NAME_SERVER]},
        "initContainers": [connected(container) for container in pod["initContainers"]],
        "containers": [connected(container) for container in pod["containers"]],
    }
    return {**manifest, "spec": {**manifest["spec"], "template": {**template, "spec": pod}}}


def _with_variables(container: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Set the variables in the container, whatever `pod_template` says about them."""
    others = [entry for entry in container.get("env", ()) if entry["name"] not in values]
    return {
        **container,
        "env": [*others, *({"name": name, "value": value} for name, value in values.items())],
    }
