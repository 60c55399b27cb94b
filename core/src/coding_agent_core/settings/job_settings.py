"""Settings of an attempt's Job: images, credentials, deadlines, and a template merged over its pod."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.section import SecretSettings, Section, for_repository, secrets_in_variables
from coding_agent_core.task.environment import SERVICE_PREFIX

RESERVED_VOLUMES = (
    *("work", "workspace", "socket", "program", "config", "credentials"),
    *("repository-cache", "repository-cache-copy"),
)
"""The names of the pod's own volumes."""
MIRROR_VARIABLE = "REPOSITORY_MIRROR"
"""The variable that tells the agent the folder of the repository's mirror, if a cache is mounted."""
RESERVED_VARIABLES = (
    *("HOME", "TMPDIR", "WORKSPACE_SOCKET", "CONFIG_FILE", "CODING_AGENT_TASK", "CODING_AGENT_VERIFY"),
    MIRROR_VARIABLE,
)
"""The environment variables that the operator sets in the agent's container."""
FS_GROUP = 10003
AGENT_USER = 10001
"""The default number of the agent's user and group."""
WORKSPACE_USERS = range(20_000, 60_000)
"""Default users and groups of workspaces, one for each attempt. The kernel counts processes by user, so with
the same user a fork bomb in one workspace would stop the commands of all others on its node. All numbers are
below 65,536, because a pod with its own user namespace has no others."""
SERVICE_USERS = range(11_000, 20_000)
"""Users and groups of the services next to a workspace, one for each attempt. They are not in
`WORKSPACE_USERS`, so that a service cannot use up the processes of another attempt's workspace."""

_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i|e[0-9]+)?")
Name = Annotated[str, Field(pattern=_NAME)]

_PARTS = {"metadata", "spec"}
_METADATA = {"labels", "annotations"}
_FIXED = {
    *("automountServiceAccountToken", "serviceAccountName", "serviceAccount", "shareProcessNamespace"),
    *("hostNetwork", "hostPID", "hostIPC", "restartPolicy", "enableServiceLinks"),
    *("activeDeadlineSeconds", "terminationGracePeriodSeconds", "initContainers", "ephemeralContainers"),
}
"""Keys of a pod's spec on which security or the course of an attempt depends."""
_POD_SECURITY = {"fsGroup", "fsGroupChangePolicy", "seLinuxOptions", "appArmorProfile"}


def _only(keys: set[str], **rules: Any) -> dict[str, Any]:
    """Return the JSON schema of an object with these keys alone; some may have rules.

    They are patterns, because they are no settings: `properties` of the settings' schema are.
    """
    patterns = {f"^{key}$": rules.get(key, {}) for key in sorted(keys)}
    return {"patternProperties": patterns, "additionalProperties": False}


_TEMPLATE: dict[str, Any] = _only(
    _PARTS,
    metadata=_only(_METADATA),
    spec={
        "patternProperties": {
            f"^({'|'.join(sorted(_FIXED))})$": False,
            "^securityContext$": _only(_POD_SECURITY),
        }
    },
)
"""The rules about keys of `pod_template`, for the chart's schema."""
_CONTAINER = {"name", "env", "envFrom", "resources", "volumeMounts", "securityContext"}
_CONTAINER_SECURITY = {"runAsUser"}


class Credential(Section):
    """A key of a Secret, mounted as a file in the agent container: `/etc/coding-agent/credentials/FILE`.

    With `platform`, `host` or `repository` it is only for tasks of that platform, host or repository. If
    several entries give the same file to a task, the most specific wins: repository, then host, then
    platform.
    """

    secret: str = Field(min_length=1, max_length=253)
    """Name of the Secret."""
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")
    """Key in the Secret."""
    file: str = Field(pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$")
    """Name of the file."""
    platform: Platform | None = None
    """Only for tasks of this platform."""
    host: str | None = Field(default=None, min_length=1)
    """Only for tasks of this forge, by its web host."""
    repository: str | None = Field(default=None, min_length=1)
    """`owner/repo`, or the path of a GitLab project; letter case is ignored."""
    evidence: bool = False
    """Only for evidence pods (`verify.evidence`), where it replaces the forge's tokens of attempts, for
    example by one that can only read. Its file has the same name."""


class WorkspaceImage(Section):
    """The image in which the model's commands run."""

    image: str | None = Field(default=None, min_length=1)
    """An image with the toolchain that commands need. It must have `/bin/sh`, but neither Python nor git.
    `None`: the agent's own image."""
    images: dict[str, str] = Field(default_factory=dict)
    """Other images for single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    def image_of(self, host: str, repository: str) -> str | None:
        """Return the image for one repository; `None` for the agent's own image."""
        return for_repository(self.images, host, repository) or self.image


class Cache(Section):
    """A volume for each repository, with the downloads of its package managers and a mirror of it.

    The operator creates the volume claim with a repository's first attempt and never deletes it. Attempts of
    forks and strangers cannot write to the volume.
    """

    enabled: bool = False
    """Whether each repository gets such a volume."""
    size: str = Field(default="10Gi", pattern=rf"^{_QUANTITY.pattern}$")
    """Size of a new volume claim."""
    storage_class: str | None = Field(default=None, max_length=253)
    """StorageClass of a new volume claim; `None`: the cluster's default."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """Access mode of a new volume claim. With `ReadWriteOnce`, simultaneous attempts of a repository run on
    the same node, and wait for room there."""


class RuntimeClasses(Section):
    """RuntimeClasses of the pods, by who wrote the item: for example a sandbox such as gVisor or Kata for
    strangers alone. The operator serves no namespace while one of these classes is missing."""

    trusted: Name | None = None
    """For tasks whose item was written by somebody with rights in the repository (`spec.trusted`). `None`:
    the cluster's default."""
    untrusted: Name | None = None
    """For tasks of forks and strangers. `None`: the cluster's default."""

    def of(self, *, trusted: bool) -> str | None:
        """Return the class for one task; `None` for the cluster's default."""
        return self.trusted if trusted else self.untrusted

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that must exist."""
        return tuple(sorted({name for name in (self.trusted, self.untrusted) if name is not None}))


class JobTemplate(Section):
    """The attempt's Job."""

    image: str = Field(default="coding-agent-consumer:latest", min_length=1)
    """Image of the agent, and of the workspace unless `workspace.image` names another."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of both images."""
    service_account: str = "default"
    """ServiceAccount of the pod; its token is never mounted."""
    config_map: Name | None = None
    """ConfigMap with the configuration in the key `config.yaml`; `None`: the image's own file, if there is
    one."""
    credentials: tuple[Credential, ...] = ()
    """Secrets that are mounted as files in the agent container."""
    grace_seconds: int = Field(default=60, ge=10, le=86_400)
    """Seconds between SIGTERM and SIGKILL, in which the agent pushes its unfinished work. A pod's deadline is
    the task's `timeoutSeconds` plus this plus `start_seconds`; the Job's deadline is three times as long."""
    start_seconds: int = Field(default=1200, ge=0, le=86_400)
    """Seconds that pulling images and preparing may take. They count against a pod's deadline. The agent's
    own clock, which starts later, ends a task in time."""
    fixed_ids: bool = True
    """Whether agent and workspace run as different fixed users. `false`: they run as the user and group that
    the cluster assigns, which may be the same for both, as with OpenShift's `restricted-v2`."""
    workspace: WorkspaceImage = WorkspaceImage()
    cache: Cache = Cache()
    runtime_classes: RuntimeClasses = RuntimeClasses()
    pod_template: dict[str, Any] = Field(default_factory=dict, json_schema_extra=_TEMPLATE)
    """Part of a Kubernetes pod template that is merged over the pod: `metadata` (labels, annotations) and
    `spec`. Containers, named `agent` and `workspace`, are merged by name and may have `env`, `envFrom`,
    `resources`, `volumeMounts` and `securityContext.runAsUser`. `null` removes a default. Keys that would
    weaken the pod's isolation are refused. Each attempt's workspace has its own user; give it a fixed
    `runAsUser` if attempts share a volume there."""

    @field_validator("credentials")
    @classmethod
    def _distinct(cls, credentials: tuple[Credential, ...]) -> tuple[Credential, ...]:
        seen: set[tuple[object, ...]] = set()
        for credential in credentials:
            tasks = (
                credential.platform,
                (credential.host or "").lower(),
                (credential.repository or "").lower(),
                credential.evidence,
            )
            if (credential.file, *tasks) in seen:
                raise ValueError(f"two entries give the file {credential.file!r} to the same tasks")
            seen.add((credential.file, *tasks))
        return credentials

    @field_validator("pod_template")
    @classmethod
    def _guarded(cls, template: dict[str, Any]) -> dict[str, Any]:
        _allow("", template, _PARTS)
        _allow("metadata", _mapping("metadata", template.get("metadata", {})), _METADATA)
        spec = _mapping("spec", template.get("spec", {}))
        for key in spec:
            if key in _FIXED:
                raise ValueError(f"`spec.{key}` cannot be set: the operator sets it itself")
        security = _mapping("spec.securityContext", spec.get("securityContext", {}))
        _allow("spec.securityContext", security, _POD_SECURITY)
        volumes = dict(_volumes(spec))
        users = {"agent": AGENT_USER}
        for at, container in _entries("spec.containers", spec.get("containers", ())):
            users |= _check_container(at, container, volumes)
        _check_users({**users, "fsGroup": security.get("fsGroup", FS_GROUP)})
        return template

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        if self.runtime_classes.names and self.pod_template.get("spec", {}).get("runtimeClassName"):
            raise ValueError(
                "give either runtime_classes or pod_template.spec.runtimeClassName, which is for all tasks, "
                "not both"
            )
        return self

    @property
    def other_secrets(self) -> SecretSettings:
        return SecretSettings.of(
            secret
            for container in self.pod_template.get("spec", {}).get("containers", ())
            for entry in container.get("env", ())
            for secret in secrets_in_variables({entry["name"]: str(entry.get("value", ""))})
        )

    @property
    def depends_on_trust(self) -> bool:
        """Whether the pods of trusted tasks are others than those of the rest."""
        classes = self.runtime_classes
        return self.cache.enabled or classes.of(trusted=True) != classes.of(trusted=False)


def _volumes(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the additional volumes by name. The pod's own volumes may only get another size."""
    seen: set[str] = set()
    for at, volume in _entries("spec.volumes", spec.get("volumes", ())):
        name = volume["name"]
        if name in seen:
            raise ValueError(f"`{at}`: two volumes are called {name!r}")
        seen.add(name)
        if name in ("work", "workspace") and set(volume) == {"name", "emptyDir"}:
            _allow(f"{at}.emptyDir", _mapping(f"{at}.emptyDir", volume["emptyDir"]), {"sizeLimit"})
        elif name in RESERVED_VOLUMES or name.startswith(SERVICE_PREFIX):
            raise ValueError(f"`{at}`: the operator adds a volume {name!r} itself; choose another name")
        elif len(volume) != 2:
            raise ValueError(f"`{at}`: volume {name!r} needs its name and exactly one source")
        else:
            yield name, volume


def _check_container(
    at: str, container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Check a container's entry, and return the user that it sets, by the container's name."""
    name = container["name"]
    if name not in ("agent", "workspace"):
        raise ValueError(f"`{at}`: the pod has no container {name!r}, only agent and workspace")
    _allow(at, container, _CONTAINER)
    if name == "workspace" and _holds_secret([container.get("env"), container.get("envFrom")]):
        raise ValueError(f"`{at}` takes a variable from a Secret: {_EXPOSED}")
    for where, variable in _entries(f"{at}.env", container.get("env", ())):
        if name == "agent" and variable["name"] in RESERVED_VARIABLES:
            raise ValueError(f"`{where}` sets {variable['name']}, which the operator sets itself")
    for kind, amounts in _mapping(f"{at}.resources", container.get("resources", {})).items():
        for resource, amount in _mapping(f"{at}.resources.{kind}", amounts).items():
            if amount is not None and not _QUANTITY.fullmatch(str(amount)):
                raise ValueError(f"`{at}.resources.{kind}.{resource}`: {amount!r} is not a quantity")
    for where, mount in _entries(f"{at}.volumeMounts", container.get("volumeMounts", ())):
        if mount["name"] not in volumes:
            raise ValueError(f"`{where}` names {mount['name']!r}, which is not in `spec.volumes`")
        if name == "workspace" and _holds_secret(volumes[mount["name"]]):
            raise ValueError(
                f"`{where}` names {mount['name']!r}, which holds a Secret, a token or a folder of the node: "
                f"{_EXPOSED}"
            )
    security = _mapping(f"{at}.securityContext", container.get("securityContext", {}))
    _allow(f"{at}.securityContext", security, _CONTAINER_SECURITY)
    return {name: security["runAsUser"]} if "runAsUser" in security else {}


_EXPOSED = "the model and the repository's code can read what the workspace can read"


def _check_users(users: Mapping[str, Any]) -> None:
    for owner, number in users.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**32 - 1:
            key = "spec.securityContext.fsGroup" if owner == "fsGroup" else "securityContext.runAsUser"
            raise ValueError(f"`{key}` of {owner} must be a number above 0")
    if len(set(users.values())) != len(users):
        raise ValueError("the users of agent and workspace and `fsGroup` must be three different numbers")


def _allow(at: str, given: Mapping[str, Any], allowed: set[str]) -> None:
    for key in given:
        if key not in allowed:
            path = f"{at}.{key}" if at else key
            raise ValueError(f"`{path}` cannot be set here, only {', '.join(sorted(allowed))}")


def _mapping(at: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"`{at}` must be a mapping")  # noqa: TRY004 - pydantic reports ValueError with the key
    return value


def _entries(at: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries of a list of named objects, with their paths."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{at}` must be a list")  # noqa: TRY004
    for index, entry in enumerate(value):
        path = f"{at}.{index}"
        if not isinstance(_mapping(path, entry).get("name"), str):
            raise ValueError(f"`{path}` needs a `name`")  # noqa: TRY004
        yield path, entry


def _holds_secret(value: Any) -> bool:
    """Whether the value has a Secret or token in any form (also projected, or by a driver) or a hostPath."""
    if isinstance(value, Mapping):
        return any(
            re.search("secret|token", str(key), re.IGNORECASE) or key == "hostPath" or _holds_secret(inner)
            for key, inner in value.items()
        )
    return isinstance(value, list | tuple) and any(_holds_secret(inner) for inner in value)
