"""The pod of an attempt (design, *Attempt pod*), built from plain data. Pure.

Two containers with different users. `agent` has the credentials and its own clone; `workspace`, a native
sidecar, runs the model's commands and has nothing but its tree. All they share is a folder with a socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.attempt_input import ENVIRONMENT_VARIABLE, AttemptInput
from coding_agent_core.settings.job import JobTemplate, Toleration, VolumeMount
from coding_agent_core.tasks import Item

from coding_agent_operator.credentials import select
from coding_agent_operator.names import AGENT_CONTAINER, WORKSPACE_CONTAINER

CONFIG_FILE = "/etc/coding-agent/config.yaml"
CREDENTIALS = "/etc/coding-agent/credentials"
WORK = "/work"
WORKSPACE = "/workspace"
SOCKET_FOLDER = "/run/coding-agent"
SOCKET = f"{SOCKET_FOLDER}/workspace.sock"
PROGRAM = "/opt/coding-agent"
"""Where our command server lies in an image that is not ours."""

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_LIMITS = ("--command-timeout", "86400", "--output-limit", "1000000")
"""Upper bounds alone: the agent, which has the settings, asks for its own with each request."""
_SERVE = (
    "--socket",
    SOCKET,
    "--root",
    WORKSPACE,
    "--isolation",
    "none",
    "--group",
    "--inherit-env",
    *_LIMITS,
)


def pod_spec(template: JobTemplate, given: AttemptInput) -> dict[str, Any]:
    """The pod's spec; the same for the same arguments."""
    item = given.task.request.item
    image = template.workspace.image_of(item.host, item.repository)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        "serviceAccountName": template.service_account,
        "terminationGracePeriodSeconds": template.grace_seconds,
        # From when a node has it. It is for an agent that hangs: its own clock ends it before this.
        "activeDeadlineSeconds": given.timeout_seconds + template.grace_seconds + template.start_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": template.fs_group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [*([_program(template)] if image else []), _workspace(template, image)],
        "containers": [_agent(template, given)],
        "volumes": _volumes(template, item, foreign=image is not None),
    }
    optional = {
        "imagePullSecrets": [{"name": name} for name in template.image_pull_secrets],
        "nodeSelector": template.node_selector,
        "tolerations": [_toleration(each) for each in template.tolerations],
        "affinity": template.affinity,
        "runtimeClassName": template.runtime_class,
        "priorityClassName": template.priority_class,
    }
    return spec | {key: value for key, value in optional.items() if value}


def _agent(template: JobTemplate, given: AttemptInput) -> dict[str, Any]:
    agent = template.agent
    environment = {
        "HOME": WORK,
        "TMPDIR": WORK,
        "WORKSPACE_SOCKET": SOCKET,
        **({"CONFIG_FILE": CONFIG_FILE} if template.config_map else {}),
        ENVIRONMENT_VARIABLE: given.to_json(),
    }
    mounts = [
        _mount("work", WORK),
        # Connecting to a socket is no write to its file system.
        _mount("socket", SOCKET_FOLDER, read_only=True),
    ]
    if template.config_map:
        # A single file: a folder of the ConfigMap could hold no further mount point.
        mounts.append(_mount("config", CONFIG_FILE, sub_path=template.config_key, read_only=True))
    if select(template.credentials, given.task.request.item):
        mounts.append(_mount("credentials", CREDENTIALS, read_only=True))
    container = {
        "name": AGENT_CONTAINER,
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "command": list(template.command),
        "workingDir": WORK,
        "env": _environment(agent.env, environment),
        "resources": {"requests": agent.requests, "limits": agent.limits},
        "securityContext": _security(agent.user),
        # The agent's own word; of an agent that was killed the last lines of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*mounts, *(_more(each) for each in agent.volume_mounts)],
    }
    if agent.env_from_secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in agent.env_from_secrets]
    return container


def _workspace(template: JobTemplate, image: str | None) -> dict[str, Any]:
    workspace = template.workspace
    mounts = [
        _mount("socket", SOCKET_FOLDER),
        _mount("workspace", WORKSPACE),
        _mount("workspace", "/tmp", sub_path="tmp"),  # noqa: S108 - in the container, of its own
    ]
    module = ("-I", "-m", "coding_agent_consumer.workspace")
    if image is None:
        # Without our own environment of Python packages: the system's is what commands are to find.
        command = ["python", *module, *_SERVE, "--path", "/usr/local/bin"]
    else:
        mounts.append(_mount("program", PROGRAM, read_only=True))
        command = [
            *(f"{PROGRAM}/ld.so", "--inhibit-cache", "--library-path", f"{PROGRAM}/lib"),
            *(f"{PROGRAM}/bin/python3", "-S", *module, *_SERVE, "--git", f"{PROGRAM}/tools/git"),
        ]
    return {
        "name": WORKSPACE_CONTAINER,
        "image": image or template.image,
        "imagePullPolicy": template.pull_policy,
        "restartPolicy": "Always",  # a native sidecar: it starts before the agent and ends after it
        "command": command,
        "workingDir": "/",
        "env": _environment(workspace.env, {}),
        "resources": {"requests": workspace.requests, "limits": workspace.limits},
        "securityContext": _security(workspace.user),
        "volumeMounts": [*mounts, *(_more(each) for each in workspace.volume_mounts)],
    }


def _program(template: JobTemplate) -> dict[str, Any]:
    """Copies our command server, with all it needs to run, for an image that is not ours."""
    return {
        "name": f"{WORKSPACE_CONTAINER}-program",
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "command": ["python", "-I", "-m", "coding_agent_consumer.workspace.portable", PROGRAM],
        "workingDir": "/",
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _security(template.agent.user),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_mount("program", PROGRAM)],
    }


def _volumes(template: JobTemplate, item: Item, *, foreign: bool) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "work", "emptyDir": {"sizeLimit": template.agent.size_limit}},
        {"name": "workspace", "emptyDir": {"sizeLimit": template.workspace.size_limit}},
        # In memory, since there the limit is a hard one.
        {"name": "socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    if foreign:
        volumes.append({"name": "program", "emptyDir": {"sizeLimit": "512Mi"}})
    if template.config_map:
        items = [{"key": template.config_key, "path": template.config_key}]
        volumes.append({"name": "config", "configMap": {"name": template.config_map, "items": items}})
    credentials = select(template.credentials, item)
    if credentials:
        sources = [
            {"secret": {"name": each.secret, "items": [{"key": each.key, "path": each.file}]}}
            for each in credentials
        ]
        volumes.append({"name": "credentials", "projected": {"defaultMode": 0o440, "sources": sources}})
    return [*volumes, *template.volumes]


def _security(user: int) -> dict[str, Any]:
    return {**_SECURITY, "runAsUser": user, "runAsGroup": user}


def _environment(more: Mapping[str, str], ours: Mapping[str, str]) -> list[dict[str, str]]:
    # Kubernetes expands $(NAME) and halves $$ in values.
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in {**more, **ours}.items()]


def _mount(name: str, path: str, *, sub_path: str | None = None, read_only: bool = False) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": name, "mountPath": path}
    if sub_path is not None:
        mount["subPath"] = sub_path
    if read_only:
        mount["readOnly"] = True
    return mount


def _more(mount: VolumeMount) -> dict[str, Any]:
    return _mount(mount.name, mount.mount_path, sub_path=mount.sub_path, read_only=mount.read_only)


def _toleration(toleration: Toleration) -> dict[str, Any]:
    fields = toleration.model_dump(exclude_none=True)
    seconds = fields.pop("toleration_seconds", None)
    return fields if seconds is None else {**fields, "tolerationSeconds": seconds}
