"""Settings of the egress proxy: the hosts that attempts may reach."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from coding_agent_core.egress import profile_of
from coding_agent_core.environment import Preset
from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section, Url

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
