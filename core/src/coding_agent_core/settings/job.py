"""Settings of an attempt's Job: its pod, what its two containers get, and which credentials go where.

What has Kubernetes' own form (tolerations, affinity, volumes) is written as in a pod.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from coding_agent_core.settings.section import Section
from coding_agent_core.tasks import Platform

RESERVED_VOLUMES = ("work", "workspace", "socket", "program", "config", "credentials")
"""Names of the pod's own volumes."""
_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i|e[0-9]+)?$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

Name = Annotated[str, Field(pattern=_NAME)]
Quantity = Annotated[
    str,
    Field(pattern=_QUANTITY),
    BeforeValidator(lambda v: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _QUANTITY}, {"type": "number"}]}),
]
Resource = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9./]*[a-z0-9])?$")]
Variable = Annotated[str, Field(pattern=_VARIABLE)]
UserId = Annotated[int, Field(gt=0, le=4_294_967_294)]


class Credential(Section):
    """A key of a Secret that becomes a file of the agent's container: `/etc/coding-agent/credentials/FILE`.

    With `platform`, `host` or `repository` it is for tasks of that platform, host or repository alone. Of
    those that give the same file to a task the most specific wins: repository, then host, then platform.
    """

    secret: str = Field(min_length=1, max_length=253)
    """Name of the Secret."""
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")
    """Key in the Secret."""
    file: str = Field(pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$")
    """Name of the file."""
    platform: Platform | None = None
    """For tasks of this platform alone."""
    host: str | None = Field(default=None, min_length=1)
    """For tasks of this forge alone, by its web host."""
    repository: str | None = Field(default=None, min_length=1)
    """`owner/repo`, or the path of a GitLab project; letter case is ignored."""


class Toleration(Section):
    """As in a pod."""

    key: str | None = None
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(
        default=None, validation_alias=AliasChoices("tolerationSeconds", "toleration_seconds")
    )


class VolumeMount(Section):
    """As in a container."""

    name: Name
    mount_path: str = Field(pattern=r"^/[^:]*$", validation_alias=AliasChoices("mountPath", "mount_path"))
    sub_path: str | None = Field(default=None, validation_alias=AliasChoices("subPath", "sub_path"))
    read_only: bool = Field(default=False, validation_alias=AliasChoices("readOnly", "read_only"))


class _Container(Section):
    """What both containers have."""

    requests: dict[Resource, Quantity] = Field(default_factory=dict)
    limits: dict[Resource, Quantity] = Field(default_factory=dict)
    env: dict[Variable, str] = Field(default_factory=dict)
    """Further environment variables; no secrets."""
    volume_mounts: tuple[VolumeMount, ...] = ()
    """Of `operator.job.volumes`."""


class AgentContainer(_Container):
    """The container that has the credentials and runs the task."""

    user: UserId = 10001
    """Numeric user and group; never root, never that of the workspace."""
    requests: dict[Resource, Quantity] = Field(
        default_factory=lambda: {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "256Mi"}
    )
    """Given explicitly: Kubernetes takes the limits where there are none."""
    limits: dict[Resource, Quantity] = Field(
        default_factory=lambda: {"memory": "1Gi", "ephemeral-storage": "8Gi"}
    )
    """No CPU limit: it waits for the model most of the time."""
    size_limit: Quantity = "8Gi"
    """Of the volume that holds its own clone."""
    env_from_secrets: tuple[Name, ...] = ()
    """Secrets whose keys become environment variables, for MCP servers whose settings name `${VARIABLE}`."""


class WorkspaceContainer(_Container):
    """The native sidecar in which the model's commands run; it is given no secret whatsoever."""

    image: str | None = Field(default=None, min_length=1)
    """An image with the toolchain that commands need; it must have `/bin/sh`, but neither Python nor git.
    `None`: the agent's own image."""
    images: dict[str, str] = Field(default_factory=dict)
    """Other images for single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""
    user: UserId = 10002
    """Numeric user and group; never root, never that of the agent."""
    requests: dict[Resource, Quantity] = Field(
        default_factory=lambda: {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "256Mi"}
    )
    """What builds and tests need at least."""
    limits: dict[Resource, Quantity] = Field(
        default_factory=lambda: {"memory": "4Gi", "ephemeral-storage": "16Gi"}
    )
    """A command that needs more memory is killed; the agent goes on."""
    size_limit: Quantity = "16Gi"
    """Of the volume that holds the tree, HOME and /tmp of the commands."""

    def image_of(self, host: str, repository: str) -> str | None:
        """The image for one repository; `None`: the agent's own."""
        known = {name.lower(): image for name, image in self.images.items()}
        path = repository.lower()
        return known.get(f"{host.lower()}/{path}", known.get(path, self.image))


class JobTemplate(Section):
    """The attempt's Job."""

    image: str = Field(default="coding-agent-consumer:latest", min_length=1)
    """Of the agent, and of the workspace where no other is given."""
    command: tuple[str, ...] = Field(default=("python", "/app/main.py", "--mode", "attempt"), min_length=1)
    """What the agent's container runs; the task is in its environment as `CODING_AGENT_TASK` (JSON)."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of both images."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Names of Secrets to pull with."""
    service_account: str = "default"
    """No token of it is ever mounted."""
    config_map: Name | None = None
    """ConfigMap that holds the configuration; `None`: the image's own, or none."""
    config_key: str = Field(default="config.yaml", pattern=r"^[-._A-Za-z0-9]+$")
    """Key of `config_map` that holds the file."""
    credentials: tuple[Credential, ...] = ()
    """Secrets that become files of the agent's container."""
    grace_seconds: int = Field(default=60, ge=10)
    """Between SIGTERM and SIGKILL: the agent pushes what it has. A pod's deadline is a task's
    `timeoutSeconds`, and this, and `start_seconds`; the Job's is three times that."""
    start_seconds: int = Field(default=1200, ge=0)
    """What pulling images and preparing may take, which counts against a pod's deadline. The agent's own
    clock, which starts with it, is the one that ends a task in time."""
    fs_group: UserId = 10003
    """Group of the pod's volumes, neither container's own: a PersistentVolume can be written."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of the pod."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Of the pod."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """As in a pod."""
    tolerations: tuple[Toleration, ...] = ()
    """As in a pod."""
    affinity: dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]] = Field(
        default_factory=dict
    )
    """As in a pod."""
    runtime_class: str | None = Field(default=None, min_length=1)
    """RuntimeClass, such as a sandboxed one where tasks come from strangers."""
    priority_class: str | None = Field(default=None, min_length=1)
    """PriorityClass of the pod."""
    volumes: tuple[dict[str, Any], ...] = ()
    """Further volumes, for the containers' `volume_mounts`."""
    agent: AgentContainer = AgentContainer()
    workspace: WorkspaceContainer = WorkspaceContainer()

    @field_validator("volumes")
    @classmethod
    def _usable(cls, volumes: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        seen: set[str] = set()
        for volume in volumes:
            name = volume.get("name")
            if not isinstance(name, str) or not name:
                raise ValueError("each volume needs a `name`")
            if name in RESERVED_VOLUMES:
                raise ValueError(f"the pod has a volume {name!r} of its own; choose another name")
            if name in seen:
                raise ValueError(f"two volumes are called {name!r}")
            if len(volume) != 2:
                raise ValueError(f"volume {name!r} needs exactly one source beside its name")
            seen.add(name)
        return volumes

    @field_validator("credentials")
    @classmethod
    def _told_apart(cls, credentials: tuple[Credential, ...]) -> tuple[Credential, ...]:
        seen: set[tuple[object, ...]] = set()
        for each in credentials:
            scope = (
                each.file,
                each.platform,
                (each.host or "").lower(),
                (each.repository or "").lower(),
            )
            if scope in seen:
                raise ValueError(f"two entries give the file {each.file!r} to the same tasks")
            seen.add(scope)
        return credentials

    @model_validator(mode="after")
    def _separate(self) -> JobTemplate:
        users = (self.agent.user, self.workspace.user, self.fs_group)
        if len(set(users)) != len(users):
            raise ValueError("`agent.user`, `workspace.user` and `fs_group` must be three different numbers")
        volumes = {volume["name"]: volume for volume in self.volumes}
        for container, mounts in (
            ("agent", self.agent.volume_mounts),
            ("workspace", self.workspace.volume_mounts),
        ):
            for mount in mounts:
                if mount.name not in volumes:
                    raise ValueError(f"`{container}.volume_mounts` names {mount.name!r}, not in `volumes`")
        for mount in self.workspace.volume_mounts:
            if _holds_secret(volumes[mount.name]):
                raise ValueError(
                    f"`workspace.volume_mounts` names {mount.name!r}, which holds a Secret, a token or a "
                    "folder of the node: what the workspace can read, the model and the repository's code can"
                )
        return self


def _holds_secret(value: Any) -> bool:
    """A Secret or a token in any form (of its own, projected, a driver's), or a folder of the node."""
    if isinstance(value, dict):
        return any(
            re.search("secret|token", str(key), re.IGNORECASE) or key == "hostPath" or _holds_secret(inner)
            for key, inner in value.items()
        )
    return isinstance(value, list | tuple) and any(_holds_secret(each) for each in value)
