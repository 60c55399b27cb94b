"""The spec of an attempt's pod, built from plain data. Pure.

The pod has two containers with different users. `agent` has the credentials and its own clone. `workspace`, a
native sidecar, runs the model's commands and has only its working tree. They share only a folder with a
socket.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from coding_agent_core.settings.attempt_settings import ServiceResources
from coding_agent_core.settings.job_settings import (
    AGENT_USER,
    FS_GROUP,
    SERVICE_USERS,
    WORKSPACE_USERS,
    Credential,
    JobTemplate,
)
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput
from coding_agent_core.task.environment import SERVICE_PREFIX, Service
from coding_agent_core.task.model import Item

from coding_agent_operator.cluster.observed import AGENT_CONTAINER, WORKSPACE_CONTAINER

CONFIG_KEY = "config.yaml"
"""The key of the ConfigMap. Its file has this name in the container too."""
CONFIG_FILE = f"/etc/coding-agent/{CONFIG_KEY}"
CREDENTIALS = "/etc/coding-agent/credentials"
WORK = "/work"
WORKSPACE = "/workspace"
SOCKET_FOLDER = "/run/coding-agent"
SOCKET = f"{SOCKET_FOLDER}/workspace.sock"
PROGRAM = "/opt/coding-agent"
"""The folder of our command server in a container whose image is not ours."""

_MODULE = "coding_agent_consumer.workspace"
_BLOCK_SIGTERM = ("env", "--block-signal=TERM")
"""Starts a program of our image so that a SIGTERM waits until the program handles it, as the image's entry
point does. The `env` of other images may lack this option."""
_SERVICE_START_S = 120
"""Seconds within which a service must listen; otherwise the kubelet starts it again."""

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SERVE = (
    *("--socket", SOCKET, "--root", WORKSPACE, "--isolation", "none", "--group", "--inherit-env"),
    # These are only upper bounds: the agent has the settings, and sends its own limits with each request.
    *("--command-timeout", "86400", "--output-limit", "1000000"),
    *("--scratch", "/tmp", "--scratch", "/dev/shm"),  # noqa: S108 - the container's own folders
)


def pod_spec(
    template: JobTemplate, attempt_input: AttemptInput, resources: ServiceResources
) -> dict[str, Any]:
    """Return the spec of an attempt's pod. Equal arguments give equal specs.

    Args:
        resources: the resources of each service.
    """
    item = attempt_input.task.request.item
    image = attempt_input.environment.image or template.workspace.image_of(item.host, item.repository)
    runtime = template.runtime_classes.of(trusted=attempt_input.task.request.trusted)
    spec: dict[str, Any] = {
        **({"runtimeClassName": runtime} if runtime is not None else {}),
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        "serviceAccountName": template.service_account,
        "terminationGracePeriodSeconds": template.grace_seconds,
        # Counted from when a node has the pod. It ends only an agent that hangs: others end earlier by their
        # own clock.
        "activeDeadlineSeconds": attempt_input.timeout_seconds
        + template.grace_seconds
        + template.start_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": FS_GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            *([_program(template)] if image else []),
            _workspace(template, image, workspace_user(template, attempt_input)),
        ],
        "containers": [_agent(template, attempt_input)],
        "volumes": _volumes(template, item, foreign=image is not None),
    }
    merged = _merge_template(spec, template.pod_template.get("spec", {}))
    user = _service_user(merged, attempt_input)
    for service in attempt_input.environment.services:
        merged["initContainers"].insert(-1, _service(template, service, resources, user))
        merged["volumes"].append(
            {"name": f"{SERVICE_PREFIX}{service.name}", "emptyDir": {"sizeLimit": resources.storage}}
        )
    return merged if template.fixed_ids else _without_ids(merged)


def _without_ids(spec: dict[str, Any]) -> dict[str, Any]:
    for holder in (spec, *spec["initContainers"], *spec["containers"]):
        for key in ("runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"):
            holder["securityContext"].pop(key, None)
    return spec


def workspace_user(template: JobTemplate, attempt_input: AttemptInput) -> int:
    """Return the user of an attempt's workspace if the template sets none; it depends only on the attempt.

    Attempts that write to the same cache have the same user, as package managers expect: git refuses a
    repository of another user, and several of them create files and folders that nobody else can read.
    """
    spec = template.pod_template.get("spec", {})
    taken = {
        container.get("securityContext", {}).get("runAsUser") for container in spec.get("containers", ())
    }
    taken.add(spec.get("securityContext", {}).get("fsGroup"))
    request = attempt_input.task.request
    if template.cache.enabled and request.trusted:
        owner = request.item.repository_identity  # all that write to the repository's cache have one user
    else:
        # The kernel counts processes by user: with one user for all, a fork bomb in one workspace would keep
        # the others on its node from starting a process.
        owner = f"{attempt_input.task.uuid}/{attempt_input.task.attempt}"
    return _user_of(owner, WORKSPACE_USERS, taken)


def _user_of(owner: str, users: range, taken: Collection[int | None]) -> int:
    """Return the owner's number in a range, or the next number that is not taken."""
    first = int.from_bytes(sha256(owner.encode()).digest()[:8], "big")
    numbers = (users[(first + step) % len(users)] for step in range(len(taken) + 1))
    return next(user for user in numbers if user not in taken)


def _merge_template(spec: dict[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `operator.job.pod_template`, which the settings have checked, over the spec."""
    merged = _merge(spec, {key: value for key, value in template.items() if key != "containers"})
    *programs, workspace = merged["initContainers"]
    containers = {AGENT_CONTAINER: merged["containers"][0], WORKSPACE_CONTAINER: workspace}
    for container in template.get("containers", ()):
        name = container["name"]
        containers[name] = _merge(containers[name], container)
    for container in containers.values():
        # A template sets the user. The group follows it, so that no two containers share a group.
        container["securityContext"]["runAsGroup"] = container["securityContext"]["runAsUser"]
    agent, workspace = containers[AGENT_CONTAINER], containers[WORKSPACE_CONTAINER]
    for program in programs:
        program["securityContext"] = agent["securityContext"]
    return {**merged, "initContainers": [*programs, workspace], "containers": [agent]}


def _merge(built: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge strategically: mappings by key, lists of named entries by name; null removes a key."""
    merged = dict(built)
    for key, value in over.items():
        present = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(present, Mapping):
            merged[key] = _merge(present, value)
        elif isinstance(present, list):
            # Kubernetes merges these lists by the same keys.
            by = "mountPath" if key == "volumeMounts" else "name"
            entries = {entry[by]: entry for entry in present}
            for entry in value:
                entries[entry[by]] = _merge(entries.get(entry[by], {}), entry)
            merged[key] = list(entries.values())
        else:
            merged[key] = value
    return merged


def _agent(template: JobTemplate, attempt_input: AttemptInput) -> dict[str, Any]:
    environment = {
        "HOME": WORK,
        "TMPDIR": WORK,
        "WORKSPACE_SOCKET": SOCKET,
        **({"CONFIG_FILE": CONFIG_FILE} if template.config_map else {}),
        ENVIRONMENT_VARIABLE: attempt_input.to_json(),
    }
    mounts = [
        mount("work", WORK),
        # Connecting to a socket does not write to its file system, so the folder can be read-only.
        mount("socket", SOCKET_FOLDER, read_only=True),
    ]
    if template.config_map:
        # We mount a single file, because a folder of the ConfigMap could not contain another mount point.
        mounts.append(mount("config", CONFIG_FILE, sub_path=CONFIG_KEY, read_only=True))
    if credentials_for(template.credentials, attempt_input.task.request.item):
        mounts.append(mount("credentials", CREDENTIALS, read_only=True))
    return {
        "name": AGENT_CONTAINER,
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "command": command_of("attempt"),
        "workingDir": WORK,
        # Kubernetes expands $(NAME) and halves $$ in values.
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in environment.items()],
        # Without requests, Kubernetes would take the limits. The agent mostly waits, so CPU has no limit.
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "256Mi"},
            "limits": {"memory": "1Gi", "ephemeral-storage": "8Gi"},
        },
        "securityContext": _security(AGENT_USER),
        # The message is the agent's report, or the last lines of its log if it was killed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _workspace(template: JobTemplate, image: str | None, user: int) -> dict[str, Any]:
    mounts = [
        mount("socket", SOCKET_FOLDER),
        mount("workspace", WORKSPACE),
        mount("workspace", "/tmp", sub_path="tmp"),  # noqa: S108 - the container's own folder
    ]
    module = ("-I", "-m", _MODULE)
    if image is None:
        # Commands must find the system's Python and not our own environment of packages.
        command = [*_BLOCK_SIGTERM, "python", *module, *_SERVE, "--path", "/usr/local/bin"]
    else:
        mounts.append(mount("program", PROGRAM, read_only=True))
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
        "env": [],
        # A command that needs more memory than the limit is killed; the agent continues.
        "resources": {
            "requests": {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "256Mi"},
            "limits": {"memory": "4Gi", "ephemeral-storage": "16Gi"},
        },
        "securityContext": _security(user),
        "volumeMounts": mounts,
    }


def _service_user(spec: Mapping[str, Any], attempt_input: AttemptInput) -> int:
    """Return the user of an attempt's services, which differs from that of every other container."""
    security = [holder["securityContext"] for holder in (*spec["initContainers"], *spec["containers"])]
    taken = {one["runAsUser"] for one in security} | {spec["securityContext"].get("fsGroup")}
    return _user_of(f"{attempt_input.task.uuid}/{attempt_input.task.attempt}", SERVICE_USERS, taken)


def _service(
    template: JobTemplate, service: Service, resources: ServiceResources, user: int
) -> dict[str, Any]:
    """Return the container of a repository's service: a native sidecar that starts before the workspace."""
    name = f"{SERVICE_PREFIX}{service.name}"
    folders = dict.fromkeys(("/tmp", *service.folders))  # noqa: S108 - the container's own folder
    return {
        "name": name,
        "image": service.image,
        "imagePullPolicy": template.pull_policy,
        "restartPolicy": "Always",
        # Kubernetes expands $(NAME) in values; a repository's text is meant literally.
        "env": [{"name": key, "value": value.replace("$", "$$")} for key, value in service.env.items()],
        "resources": {
            "requests": {"cpu": resources.cpu, "memory": resources.memory, "ephemeral-storage": "64Mi"},
            "limits": {"memory": resources.memory, "ephemeral-storage": resources.storage},
        },
        "securityContext": _security(user),
        # The kubelet connects to the pod's address, because it cannot reach the pod's loopback.
        "startupProbe": {
            "tcpSocket": {"port": service.port},
            "periodSeconds": 1,
            "failureThreshold": _SERVICE_START_S,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            mount(name, folder, sub_path=f"folder-{number}") for number, folder in enumerate(folders)
        ],
    }


def _program(template: JobTemplate) -> dict[str, Any]:
    """Return the init container that copies our command server and its dependencies for another image."""
    mounts = [mount("program", PROGRAM)]
    return init_container("program", template, ("program", PROGRAM), _security(AGENT_USER), mounts)


def init_container(
    name: str,
    template: JobTemplate,
    copied: Sequence[str],
    security: Mapping[str, Any],
    mounts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return an init container that copies files for the workspace.

    Args:
        copied: the arguments of `init_containers`: what to copy and where to.
    """
    return {
        "name": f"{WORKSPACE_CONTAINER}-{name}",
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "command": [*_BLOCK_SIGTERM, "python", "-I", "-m", f"{_MODULE}.init_containers", *copied],
        "workingDir": "/",
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _volumes(template: JobTemplate, item: Item, *, foreign: bool) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "work", "emptyDir": {"sizeLimit": "8Gi"}},
        {"name": "workspace", "emptyDir": {"sizeLimit": "16Gi"}},
        # This volume is in memory, because only there the limit is a hard one.
        {"name": "socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    if foreign:
        volumes.append({"name": "program", "emptyDir": {"sizeLimit": "512Mi"}})
    if template.config_map:
        items = [{"key": CONFIG_KEY, "path": CONFIG_KEY}]
        volumes.append({"name": "config", "configMap": {"name": template.config_map, "items": items}})
    credentials = credentials_for(template.credentials, item)
    if credentials:
        volumes.append(credentials_volume(credentials))
    return volumes


def credentials_volume(credentials: Iterable[Credential]) -> dict[str, Any]:
    """Return the volume with these credentials as files."""
    sources = [
        {
            "secret": {
                "name": credential.secret,
                "items": [{"key": credential.key, "path": credential.file}],
            }
        }
        for credential in credentials
    ]
    # Projected files belong to root; the agent reads them by the group of the pod.
    return {"name": "credentials", "projected": {"defaultMode": 0o440, "sources": sources}}


def _security(user: int) -> dict[str, Any]:
    return {**_SECURITY, "runAsUser": user, "runAsGroup": user}


def mount(name: str, path: str, *, sub_path: str = "", read_only: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "mountPath": path}
    if sub_path:
        found["subPath"] = sub_path
    if read_only:
        found["readOnly"] = True
    return found


def command_of(mode: str) -> list[str]:
    """Return the command of our program in the agent's image, in a mode."""
    return [*_BLOCK_SIGTERM, "python", "/app/main.py", "--mode", mode]


def credentials_for(
    credentials: Iterable[Credential], item: Item, *, evidence: bool = False
) -> list[Credential]:
    """Return one credential for each file that the item's task gets, sorted by file name.

    With `evidence`, these are the credentials of evidence pods alone.

    Every scope that an entry names must match the item. If several entries give the same file, an entry that
    names the repository wins, then one with the host, then one with the platform, then the later entry.
    """
    names = (item.platform, item.host.lower(), item.repository.lower())
    chosen: dict[str, tuple[list[bool], Credential]] = {}
    for credential in credentials:
        scopes = (
            credential.platform,
            credential.host and credential.host.lower(),
            credential.repository and credential.repository.lower(),
        )
        if credential.evidence is not evidence:
            continue
        if any(scope not in (None, name) for scope, name in zip(scopes, names, strict=True)):
            continue
        specificity = [scope is not None for scope in reversed(scopes)]
        if credential.file not in chosen or specificity >= chosen[credential.file][0]:
            chosen[credential.file] = specificity, credential
    return [chosen[file][1] for file in sorted(chosen)]
