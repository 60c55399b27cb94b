"""The environment that a repository asks for in its `.coding-agent.yaml`. Pure.

Everybody who can push to the default branch can write the file, so everything in it has a limit. The
administrator decides what is allowed (`repository_environment` in the settings).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.task.egress import Preset
from coding_agent_core.task.runners import RunnerName

ENVIRONMENT_FILE = ".coding-agent.yaml"
"""The file's path in the repository."""
SERVICE_PREFIX = "service-"
"""The prefix of the names of services' containers and volumes."""
MAX_FILE_BYTES = 64 * 1024
MAX_VERIFY_COMMANDS = 10
MAX_POD_BYTES = 2048
"""The limit for image, presets and services as JSON, because a termination message of 4 KiB contains them."""

_HOST = r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9-]+(?=:[0-9]))(?::[0-9]{1,5})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>{_HOST}(?:/{_COMPONENT})+)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?P<digest>@sha256:[0-9a-f]{{64}})?",
    re.ASCII,
)
"""Matches a whole reference (https://github.com/distribution/reference) with the registry's host. Without the
host, each runtime would choose its own registry."""
_PATTERN = re.compile(
    rf"(?P<name>{_HOST}(?:/[a-z0-9._*-]+)+)(?::(?P<tag>[\w.*-]{{1,128}}))?(?P<digest>@sha256:[0-9a-f]{{64}})?",
    re.ASCII,
)
_FOLDER = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
_REPOSITORY_FOLDER = re.compile(r"[^/*?\[\]\\\x00-\x1f\x7f]+(/[^/*?\[\]\\\x00-\x1f\x7f]+)*")
"""Matches a path without characters that have a meaning in git's patterns (gitignore(5))."""


class EnvironmentFileError(CodingAgentError):
    """The error for a file that cannot be used; the message names the file, the field and what to change."""


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError(
            "is not an image with its registry; write for example `registry.example.com/team/tools:1.2`"
        )
    return value


def image_pattern(value: str) -> str:
    """Return the value if `matches` accepts it as a pattern.

    Raises:
        ValueError: the value is not a pattern; the message says what a pattern looks like.
    """
    if not _PATTERN.fullmatch(value) or ".." in value:
        raise ValueError(
            f"{value!r} is not an image pattern; write the registry's host and a path, for example "
            "`registry.example.com/team/*`. A `*` stands for any characters but `/`, and not in the host"
        )
    return value


def matches(image: str, pattern: str) -> bool:
    """Whether a pattern allows an image.

    A pattern without a tag allows every tag and digest of the repositories that it names. A pattern with a
    tag allows no digest, because a digest replaces the tag and may be any version.
    """
    wanted, given = _PATTERN.fullmatch(pattern), _IMAGE.fullmatch(image)
    if wanted is None or given is None or not _glob(wanted["name"]).fullmatch(given["name"]):
        return False
    if wanted["digest"]:
        return bool(wanted["digest"] == given["digest"])
    if wanted["tag"] is None:
        return True
    return given["digest"] is None and bool(_glob(wanted["tag"]).fullmatch(given["tag"] or "latest"))


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(part) for part in re.sub(r"\*+", "*", pattern).split("*")))


def _folder(value: str) -> str:
    if not _FOLDER.fullmatch(value) or value.split("/")[1] in ("proc", "sys", "dev"):
        raise ValueError("is not an absolute path of a folder, such as `/var/lib/data`")
    return value


def _repository_folder(value: str) -> str:
    if not _REPOSITORY_FOLDER.fullmatch(value) or not {".", "..", ".git"}.isdisjoint(value.split("/")):
        raise ValueError(
            "is not a folder of the repository; write its path from the root, for example "
            "`services/billing`, without `*`, `..` and a slash at its end"
        )
    return value


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("contains a NUL character, which commands and variables cannot have; remove it")
    return value


Image = Annotated[str, Field(max_length=255), AfterValidator(_image)]
Port = Annotated[int, Field(ge=1024, le=65535)]
_Command = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_nul)]
_ServiceName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
_Value = Annotated[str, Field(max_length=512), AfterValidator(_without_nul)]
_Env = Annotated[dict[_Name, _Value], Field(max_length=20)]
_Folder = Annotated[str, Field(max_length=128), AfterValidator(_folder)]
_Folders = Annotated[tuple[_Folder, ...], Field(max_length=5)]
_RepositoryFolder = Annotated[str, Field(max_length=255), AfterValidator(_repository_folder)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class VerifyCommand(_Strict):
    """A command that checks the agent's work: it passes if it ends with exit code 0."""

    run: _Command
    """The command, which runs with `bash -c` (or `sh -c` without bash) in the repository's root."""
    timeout_seconds: int = Field(default=600, ge=1, le=7200)
    """Seconds after which the command is killed; then it has failed."""
    setup: bool = True
    """Whether `setup` runs before the command in an evidence pod. `setup` runs code of the commit, so without
    it, a command is faster and harder to mislead."""


def _only_run(value: Any) -> Any:
    """Convert the short form, a string with the command alone, to an object."""
    return {"run": value} if isinstance(value, str) else value


VerifyCommands = Annotated[
    tuple[
        Annotated[VerifyCommand, BeforeValidator(_only_run, json_schema_input_type=VerifyCommand | str)], ...
    ],
    Field(max_length=MAX_VERIFY_COMMANDS),
]


class ServiceSpec(_Strict):
    """A service in the file."""

    image: Image
    port: Port
    env: _Env = Field(default_factory=dict)
    folders: _Folders = ()


class Service(ServiceSpec):
    """A program that runs next to the workspace, which reaches it at 127.0.0.1.

    Attributes:
        port: the port on which the service listens on all addresses, so that the kubelet can check its start.
        folders: absolute paths to which the service can write, in addition to `/tmp`.
    """

    model_config = ConfigDict(extra="ignore")
    name: _ServiceName


class Environment(BaseModel):
    """What a repository asks for in the pod of an attempt.

    Attributes:
        image: the workspace's image; `None` for the installation's image.
        egress: the names of presets, sorted.
        services: the services, sorted by name.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    image: Image | None = None
    egress: Annotated[tuple[Preset, ...], Field(max_length=10)] = ()
    services: Annotated[tuple[Service, ...], Field(max_length=5)] = ()

    def to_wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)

    def __bool__(self) -> bool:
        """Whether the repository asks for anything."""
        return self != Environment()

    def __str__(self) -> str:
        parts = [f"image {self.image}"] if self.image else []
        for kind, names in (("service", [one.name for one in self.services]), ("preset", list(self.egress))):
            if names:
                parts.append(f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}")
        return "; ".join(parts) or "the installation's own"


class RepositoryFile(_Strict):
    """The content of `.coding-agent.yaml`.

    Attributes:
        checkout: the folders to check out, besides the files in the folders above them; empty: all.
        verify: the commands that check the agent's work; `None` for those of the settings, empty for none.
    """

    image: Image | None = None
    setup: Annotated[tuple[_Command, ...], Field(max_length=20)] = ()
    checkout: Annotated[tuple[_RepositoryFolder, ...], Field(max_length=100)] = ()
    verify: VerifyCommands | None = None
    egress: Annotated[tuple[Preset, ...], Field(max_length=10)] = ()
    runner: RunnerName | None = None
    services: Annotated[dict[_ServiceName, ServiceSpec], Field(max_length=5)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> RepositoryFile:
        ports = [service.port for service in self.services.values()]
        if len(set(ports)) < len(ports):
            raise ValueError("two `services` have the same `port`; give each service its own port")
        if (size := len(self.pod.model_dump_json().encode())) > MAX_POD_BYTES:
            raise ValueError(
                f"`image`, `egress` and `services` have {size} bytes as JSON, of at most "
                f"{MAX_POD_BYTES}; shorten `env`"
            )
        return self

    @property
    def pod(self) -> Environment:
        """The part of the file that describes the attempt's pod."""
        services = tuple(
            Service(name=name, **dict(service)) for name, service in sorted(self.services.items())
        )
        return Environment(image=self.image, egress=tuple(sorted(set(self.egress))), services=services)
