"""Settings of the hosts that attempts reach, and of what a repository's `.coding-agent.yaml` may ask for."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, Field

from coding_agent_core.egress import profile_of
from coding_agent_core.environment import (
    ENVIRONMENT_FILE,
    Environment,
    Preset,
    RepositoryFile,
    image_pattern,
    matches,
)
from coding_agent_core.settings.section import SecretField, SecretSettings, Section, Url
from coding_agent_core.tasks import RunnerName

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?")


def _host_pattern(value: str) -> str:
    """
    Raises:
        ValueError: it is not a host name with an optional wildcard and port.
    """
    pattern = value.lower()
    host, _, port = pattern.partition(":")
    if not _PATTERN.fullmatch(pattern) or (port and not 0 < int(port) < 65536):
        raise ValueError(
            f"{value!r} is not a host; write a name such as `files.example.com`, `*.example.com` for all "
            "names below it, or `files.example.com:8443` for another port than 443 (HTTPS) and 80 (HTTP)"
        )
    if re.fullmatch(r"[0-9.]+|0x[0-9a-f.]+", host):
        raise ValueError(f"{value!r} is an address; the proxy allows names only")
    return pattern


HostPattern = Annotated[str, AfterValidator(_host_pattern)]
"""A host name in lower case, or `*.` and a domain for every name below it; optionally with a port."""


class ParentProxy(Section):
    """A proxy through which the egress proxy itself reaches other machines, such as a company's own."""

    host: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
    """Its name or IPv4 address."""
    port: int = Field(default=3128, ge=1, le=65535)
    """Its port. It is spoken to without TLS."""
    credentials: SecretField = SecretSettings()
    """`USER:PASSWORD` for Basic authentication, if it asks for one."""


class Egress(Section):
    """The proxy through which attempts reach other machines. Without `proxy` they connect by themselves."""

    proxy: Url | None = None
    """The proxy, as the operator reaches it: attempts get its address instead of a name server. Without
    Kubernetes, as consumer and workspace reach it."""
    parent: ParentProxy | None = None
    """The proxy behind it. Hosts with a private address are reached without it."""
    key: SecretField = SecretSettings()
    """Key of the attempts' passwords. The proxy accepts all values; operator and consumer use the first."""
    allow: tuple[HostPattern, ...] = ()
    """Hosts that the model's commands may reach: names, or `*.example.com` for all names below it, on the
    ports 443 (HTTPS) and 80 (HTTP), or on the port in the entry (`example.com:8443`)."""
    repositories: dict[str, tuple[HostPattern, ...]] = Field(default_factory=dict)
    """Hosts that are allowed in addition, for single repositories, by `owner/repo` or `host/owner/repo`;
    letter case is ignored."""
    presets: dict[Preset, tuple[HostPattern, ...]] = Field(default_factory=dict)
    """Lists by name, which a repository's `.coding-agent.yaml` may ask for in addition (`egress: [NAME]`)."""
    private: tuple[HostPattern, ...] = ()
    """Those of the allowed hosts that may have a private address. Others are denied if they do, because
    whoever owns a name chooses its address."""
    agent: tuple[HostPattern, ...] = ()
    """Hosts that the agent may reach in addition to those that the other settings name: forge, model, bucket,
    MCP servers, per-user settings. For example the models of per-user settings."""

    def profile(self, host: str, repository: str) -> str | None:
        """The profile of a repository, in which the proxy knows its list; `None`: it has none of its own."""
        known = {name.lower() for name in self.repositories}
        path = repository.lower()
        for name in (f"{host.lower()}/{path}", path):
            if name in known:
                return profile_of(name)
        return None


ImagePattern = Annotated[str, AfterValidator(image_pattern)]
"""An image with its registry; `*` stands for any characters but `/`, and not in the host."""
_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class ServiceResources(Section):
    """Resources of each service's container."""

    cpu: _Quantity = "100m"
    """CPU that the scheduler reserves; there is no limit."""
    memory: _Quantity = "512Mi"
    """Memory that is reserved, and that it may use."""
    storage: _Quantity = "2Gi"
    """Size of the folders that it can write to."""


class RepositoryEnvironment(Section):
    """What a `.coding-agent.yaml` on the base branch may ask for. By default: setup commands alone."""

    setup: bool = True
    """Whether its `setup` commands run in the workspace before the agent starts. They can do what the model's
    commands can do, each for at most `consumer.workspace.command_timeout` seconds."""
    runners: tuple[RunnerName, ...] = ()
    """Coding agents that it may choose."""
    images: tuple[ImagePattern, ...] = ()
    """Images that it may choose for the workspace, with their registry, for example
    `registry.example.com/team/*`. A `*` stands for any characters but `/`. Without a tag, every tag and
    digest is allowed; with a tag, no digest."""
    service_images: tuple[ImagePattern, ...] = ()
    """Images that it may run as services next to the workspace, written as in `images`."""
    service_resources: ServiceResources = ServiceResources()

    def refusal(self, file: RepositoryFile, presets: Collection[str]) -> str | None:
        """Why a file is refused, as a sentence; `None`: all that it asks for is allowed.

        Args:
            presets: names in `egress.presets`.
        """
        if file.setup and not self.setup:
            return _not_allowed("setup", "commands are not run here", "repository_environment.setup")
        if file.runner is not None and file.runner not in self.runners:
            return _not_allowed("runner", f"{file.runner} is not allowed", "repository_environment.runners")
        return self.pod_refusal(file.pod, presets)

    def pod_refusal(self, environment: Environment, presets: Collection[str]) -> str | None:
        """The same of what the pod is made with; the operator trusts no attempt."""
        image = environment.image
        if image is not None and not any(matches(image, pattern) for pattern in self.images):
            return _not_allowed("image", f"{image} is not allowed", "repository_environment.images")
        for service in environment.services:
            if not any(matches(service.image, pattern) for pattern in self.service_images):
                field = f"services.{service.name}.image"
                setting = "repository_environment.service_images"
                return _not_allowed(field, f"{service.image} is not allowed", setting)
        for name in environment.egress:
            if name not in presets:
                return _not_allowed("egress", f"there is no preset {name!r}", "egress.presets")
        return None


def _not_allowed(field: str, problem: str, setting: str) -> str:
    return (
        f"`{ENVIRONMENT_FILE}` on the base branch, `{field}`: {problem}. An administrator can allow it in "
        f"`{setting}`; otherwise remove it from the file."
    )
