"""Settings of what attempts connect to: per-user settings, MCP servers, the bucket, the egress proxy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, field_validator, model_validator

from coding_agent_core.platforms.addresses import MAX_PLACE
from coding_agent_core.settings.section import (
    Days,
    Port,
    PositiveCount,
    SecretField,
    SecretSettings,
    Section,
    Url,
    for_repository,
    secrets_in_command,
    secrets_in_headers,
    secrets_in_queries,
)
from coding_agent_core.task.egress import Preset, profile_of

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?")


class UserConfigApi(Section):
    """The service of the per-user settings. If it does not answer within 20 seconds, the common settings
    apply, with a warning."""

    enabled: bool = False
    """Whether to ask the service for the settings of the person who applied the label."""
    url: Url = "http://user-config-api:8080"
    """Base URL of the service."""
    api_key: SecretField = SecretSettings()
    """API key of the service, sent as a Bearer token."""


class McpServer(Section):
    """An MCP server whose tools the agent gets as `<mcp_server_name>_<tool>`."""

    mcp_server_name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the server, and prefix of its tools' names: letters, digits, `_` and `-`."""
    command: tuple[str, ...] = ()
    """Command of a child process that speaks MCP over stdio."""
    url: Url | None = None
    """URL of a server that speaks MCP over streamable HTTP instead."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers that are sent with each request to `url`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Complete environment of `command`, in addition to HOME, PATH, SHELL and TERM."""

    @model_validator(mode="after")
    def _one_transport(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either `command` (stdio) or `url` (streamable HTTP)")
        return self

    @property
    def other_secrets(self) -> SecretSettings:
        # Nobody says which of these are secrets, so all are, except for words of the command line.
        url = self.url or ""
        return SecretSettings.of(
            [
                *self.env.values(),
                *secrets_in_command(self.command),
                *secrets_in_headers(self.headers),
                url,
                *secrets_in_queries(url),
            ]
        )


BUCKET_TOKEN = Path("/var/run/secrets/coding-agent.dev/bucket/token")
"""The token that proves a `BucketIdentity`. The Helm chart mounts it, and only into the agent's container."""


class BucketIdentity(Section):
    """An IAM role that may write to the bucket, in place of keys. The pod proves it with a token of its
    ServiceAccount, as STS describes for `AssumeRoleWithWebIdentity`."""

    role_arn: str = Field(pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$")
    """The role, for example `arn:aws:iam::123456789012:role/transcripts`."""
    endpoint: str = Field(default="", pattern=r"^(https://[^/\s@]+/?)?$")
    """Address of STS, with `https://`; if empty, that of the bucket's region."""


class S3(Section):
    """A bucket of an S3-compatible store, for transcripts that outlive the machine."""

    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$")
    """The bucket's name; it must exist."""
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+/?$")
    """The store's address, for example `https://s3.example.com`; `None`: Amazon's address of the region."""
    region: str = Field(default="us-east-1", min_length=1)
    """Region for which requests are signed."""
    prefix: str = Field(default="transcripts", max_length=200, pattern=r"^[A-Za-z0-9!_.*'()/-]*$")
    """Folder of the transcripts in the bucket."""
    path_style: bool = True
    """Whether the URL has the bucket in its path, as most compatible stores need, or in its host name."""
    access_key_id: SecretField = SecretSettings()
    """Access key of an account that may write to the bucket."""
    secret_access_key: SecretField = SecretSettings()
    """Secret key of `access_key_id`."""
    identity: BucketIdentity | None = None
    """Role to use in place of the two keys. `None`: the keys, or otherwise what the environment and the
    machine provide."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.identity is not None and (self.access_key_id.configured or self.secret_access_key.configured):
            raise ValueError("give either identity, or access_key_id and secret_access_key, not both")
        return self

    @property
    def exchange(self) -> str | None:
        """The address that gives the role's credentials for a token; `None` without `identity`."""
        if self.identity is None:
            return None
        return (self.identity.endpoint or f"https://sts.{self.region}.amazonaws.com").rstrip("/")


class ContextStorage(Section):
    """Transcripts and the compression of long contexts."""

    enabled: bool = True
    """Whether transcripts are kept. The comment shows the last steps in any case."""
    base_dir: Path = Path("contexts")
    """Folder of the transcripts: in a cluster a mounted volume, or a scratch folder if `s3` is set."""
    s3: S3 | None = None
    """Bucket that also receives transcripts, while an attempt runs and at its end."""
    link: Url | None = None
    """Address at which people can read a transcript: `{key}` stands for its path below `base_dir` or the
    bucket's prefix, `{place}` for the whole place, both percent-encoded. Shown in the item's comment."""
    compression_threshold: float = Field(default=0.7, gt=0, le=1)
    """Share of the context length at which the older part is summarized."""
    keep_recent_messages: PositiveCount = 5
    """Messages at the end that are never summarized."""
    cleanup_days: Days = 30
    """Transcripts older than this are removed; 0 keeps them."""

    @field_validator("link")
    @classmethod
    def _link(cls, value: str | None) -> str | None:
        if value is None:
            return None
        rest = value.replace("{key}", "").replace("{place}", "")
        if rest == value or "{" in rest or "}" in rest or not value.startswith(("http://", "https://")):
            raise ValueError(
                "write for example https://logs.example.com/{key}: http or https, and {key} or {place}"
            )
        return value

    def place_of(self, key: str) -> str | None:
        """Return a transcript's place if it outlives the attempt; in a relative folder it does not."""
        if not self.enabled:
            return None
        if self.s3 is not None:
            prefix = self.s3.prefix.strip("/")
            place = f"s3://{self.s3.bucket}/{prefix + '/' if prefix else ''}{key}"
        elif self.base_dir.is_absolute():
            place = str(self.base_dir / key)
        else:
            return None
        return place if len(place) <= MAX_PLACE else None

    def url_of(self, key: str) -> str | None:
        """Return a transcript's web address if `link` is set and the transcript outlives the attempt."""
        place = self.place_of(key)
        if place is None or self.link is None:
            return None
        url = self.link.replace("{key}", quote(key)).replace("{place}", quote(place, safe=""))
        return url if len(url) <= MAX_PLACE else None


def _host_pattern(value: str) -> str:
    """Return the value in lower case.

    Raises:
        ValueError: the value is not a host name with an optional wildcard and port.
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
    """Name or IPv4 address of this proxy."""
    port: Port = 3128
    """Port of this proxy. The connection to it does not use TLS."""
    credentials: SecretField = SecretSettings()
    """`USER:PASSWORD` for Basic authentication, if this proxy asks for it."""


class Egress(Section):
    """The proxy through which attempts reach other machines. Without `proxy` they connect directly."""

    proxy: Url | None = None
    """URL at which the operator reaches the proxy. Attempts get the proxy's address instead of a name server.
    Without Kubernetes: URL at which consumer and workspace reach it."""
    parent: ParentProxy | None = None
    """Proxy behind the egress proxy. Hosts with a private address are reached without it."""
    key: SecretField = SecretSettings()
    """Key from which the attempts' passwords are derived. The proxy accepts all values; operator and consumer
    use the first."""
    allow: tuple[HostPattern, ...] = ()
    """Hosts that the model's commands may reach: names, or `*.example.com` for all names below it, on the
    ports 443 (HTTPS) and 80 (HTTP), or on the port in the entry (`example.com:8443`)."""
    repositories: dict[str, tuple[HostPattern, ...]] = Field(default_factory=dict)
    """Hosts that are allowed in addition, for single repositories, by `owner/repo` or `host/owner/repo`;
    letter case is ignored."""
    presets: dict[Preset, tuple[HostPattern, ...]] = Field(default_factory=dict)
    """Named lists of hosts that a repository's `.coding-agent.yaml` may ask for in addition (`egress:
    [NAME]`)."""
    private: tuple[HostPattern, ...] = ()
    """Allowed hosts that may have a private address. Other hosts are denied if they have one, because whoever
    owns a name chooses its address."""
    agent: tuple[HostPattern, ...] = ()
    """Hosts that the agent may reach in addition to those that the other settings name: forge, model, bucket,
    MCP servers, per-user settings. For example the models of per-user settings."""

    def profile(self, host: str, repository: str) -> str | None:
        """Return the profile with which the proxy finds a repository's own list; `None` if it has none."""
        profiles = {name: profile_of(name) for name in self.repositories}
        return for_repository(profiles, host, repository)
