"""Builds the Job of an evidence pod, from plain data (docs/decisions/0030). Pure.

The pod has the workspace of an attempt, but lacks what a verification must not have: the agent, the model's
key, the repository's cache (to which agents write), and volumes of the pod template that can hold secrets or
outlive a pod. Only the init container `clone` has a credential, and it has ended before any command runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from coding_agent_core.settings.attempt_settings import ServiceResources
from coding_agent_core.settings.job_settings import Cache, JobTemplate
from coding_agent_core.settings.model import SECRET_VARIABLES
from coding_agent_core.task.agenttask import LABEL_VERIFY, AgentTask
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.verification import VERIFY_VARIABLE, Side, VerifyInput

from coding_agent_operator.cluster.observed import (
    AGENT_CONTAINER,
    CLONE_CONTAINER,
    EVIDENCE,
    VERIFY_CONTAINER,
    evidence_job_name,
)
from coding_agent_operator.jobs.job import job_manifest
from coding_agent_operator.jobs.pod_spec import (
    CREDENTIALS,
    SOCKET_FOLDER,
    command_of,
    credentials_for,
    credentials_volume,
    mount,
    pod_spec,
)

_PLAIN = {"configMap", "downwardAPI", "emptyDir"}
"""Kinds of volumes that hold no secret and end with the pod."""


def build_evidence_job(
    task: AgentTask,
    side: Side,
    number: int,
    template: JobTemplate,
    *,
    commit: str,
    timeout_seconds: int,
    token_files: Collection[str],
    environment: Environment,
    resources: ServiceResources,
) -> dict[str, Any]:
    """Return the manifest of an evidence pod's Job, which is always the same for the same arguments.

    Args:
        number: the number of the try, from 1.
        token_files: the names of the files from which the settings take the forge's token.
        environment: the environment with which the attempt's pod was made.
    """
    item, result = task.spec.item, task.status.result
    verify_input = VerifyInput(
        item=item,
        branch=result.branch if result is not None else None,
        commit=commit,
        side=side,
        timeout_seconds=timeout_seconds,
        environment=environment,
    )
    plain = template.model_copy(
        update={
            "credentials": (),
            "cache": Cache(),
            "pod_template": without_secrets(template.pod_template),
        }
    )
    name = evidence_job_name(task.name, side, number)
    pod = pod_spec(plain, _as_attempt(task, name, timeout_seconds, environment), resources)
    [agent] = pod["containers"]
    variable = {
        "name": VERIFY_VARIABLE,
        "value": verify_input.model_dump_json(exclude_defaults=True).replace("$", "$$"),
    }
    env = [variable if entry["name"] == ENVIRONMENT_VARIABLE else entry for entry in agent["env"]]
    verify = {**agent, "name": VERIFY_CONTAINER, "command": command_of("verify"), "env": env}
    credentials = credentials_for(template.credentials, item, evidence=True) or [
        one for one in credentials_for(template.credentials, item) if one.file in token_files
    ]
    clone = {
        **verify,
        "name": CLONE_CONTAINER,
        "command": command_of("clone"),
        "volumeMounts": [one for one in verify["volumeMounts"] if one["mountPath"] != SOCKET_FOLDER],
    }
    volumes = list(pod["volumes"])
    if credentials:
        clone["volumeMounts"] = [*clone["volumeMounts"], mount("credentials", CREDENTIALS, read_only=True)]
        volumes.append(credentials_volume(credentials))
    pod = {
        **pod,
        "initContainers": [clone, *pod["initContainers"]],
        "containers": [verify],
        "volumes": volumes,
    }
    return job_manifest(
        task,
        name,
        pod,
        plain,
        component=EVIDENCE,
        labels={LABEL_VERIFY: side.value},
        annotations={},
        container=VERIFY_CONTAINER,
    )


def _as_attempt(task: AgentTask, name: str, timeout_seconds: int, environment: Environment) -> AttemptInput:
    """Return the attempt input from which the pod is built; its uuid gives each pod its own user ids."""
    queued = QueuedTask(request=task.spec.request, uuid=f"{task.uid}/{name}", run=task.spec.run, attempt=1)
    return AttemptInput(task=queued, max_attempts=1, timeout_seconds=timeout_seconds, environment=environment)


def without_secrets(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template without variables and volumes that can hold a secret or outlive the pod."""
    spec = template.get("spec", {})
    volumes = [
        one
        for one in spec.get("volumes", ())
        if _PLAIN & set(one) or ("projected" in one and not _has_secret(one["projected"]))
    ]
    names = {one["name"] for one in volumes}
    containers = []
    for container in spec.get("containers", ()):
        kept = dict(container)
        if container["name"] == AGENT_CONTAINER:
            kept["env"] = [entry for entry in container.get("env", ()) if not _is_secret(entry)]
            kept["envFrom"] = [one for one in container.get("envFrom", ()) if "secretRef" not in one]
        kept["volumeMounts"] = [one for one in container.get("volumeMounts", ()) if one["name"] in names]
        containers.append(kept)
    plain = {**spec, **({"volumes": volumes} if "volumes" in spec else {})}
    return {**template, "spec": {**plain, **({"containers": containers} if containers else {})}}


def _has_secret(projected: Mapping[str, Any]) -> bool:
    return any(not {"configMap", "downwardAPI"} & set(source) for source in projected.get("sources", ()))


def _is_secret(entry: Mapping[str, Any]) -> bool:
    known = entry["name"].removesuffix("_FILE") in SECRET_VARIABLES
    return known or "secretKeyRef" in (entry.get("valueFrom") or {})
