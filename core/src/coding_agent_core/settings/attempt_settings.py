"""Settings of attempts: limits, workspace, tools, transcripts, egress, and what a repository may ask for."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, field_validator, model_validator

from coding_agent_core.attempts import MAX_PLACE
from coding_agent_core.egress import profile_of
from coding_agent_core.environment import (
    ENVIRONMENT_FILE,
    Environment,
    Preset,
    RepositoryFile,
    image_pattern,
    matches,
)
from coding_agent_core.runners import RunnerName
from coding_agent_core.settings.section import (
    SecretField,
    SecretSettings,
    Section,
    Url,
    for_repository,
)

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?")


class Isolation(StrEnum):
    """How the workspace's commands are isolated from the agent when both run on one machine."""

    AUTO = "auto"
    """`namespaces` if the kernel allows it, otherwise `none` with a warning."""
    NAMESPACES = "namespaces"
    """User, mount and PID namespaces. It is an error if they are not available."""
    NONE = "none"
    """Only a cleaned environment, if the container itself is the isolation."""


class WorkspaceSettings(Section):
    """The workspace, in which the model's commands run."""

    socket: Path | None = None
    """Socket of a running workspace (the sidecar container); `None`: each task starts its own workspace."""
    gate: Path | None = None
    """Folder of a workspace container that serves one task after another (Docker Compose)."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds within which a running workspace must first answer."""
    isolation: Isolation = Isolation.AUTO
    """How commands are isolated from the agent on one machine."""
    base_dir: Path | None = None
    """Folder for workspaces; `None`: the system's temporary folder."""
    readable: tuple[Path, ...] = ()
    """For a workspace on the agent's machine: folders outside the system's that commands can read, such as a
    toolchain below a home folder. They cannot be below `/tmp`, because each workspace has its own."""
    command_timeout: float = Field(default=300.0, gt=0)
    """Time limit of one command in seconds, unless the model asks for less."""
    output_limit: int = Field(default=20_000, gt=0)
    """Maximum number of characters of one command's output that the model sees, from its start and end."""


class Signing(StrEnum):
    """Who signs the commits."""

    KEY = "key"
    """The agent, if it has a `signing_key`."""
    GITHUB = "github"
    """GitHub. The agent does not push, but asks GitHub to make the commits."""


class Commits(Section):
    """Author and signature of the commits."""

    sign: Signing = Signing.KEY
    """Who signs the commits: `key` is the agent with its `signing_key`, if there is one. `github` is GitHub,
    which makes the commits in the name of the token's account and shows them as verified. Then a change
    cannot contain executable files, links or merges (docs/decisions/0034)."""

    name: str = ""
    """Name of the author; empty: the name of the forge's account."""
    email: str = ""
    """E-mail address of the author; empty: the address by which the forge finds its account (GitHub: its
    private address, GitLab: its commit address). On GitHub, take an address of the agent's own account.
    Otherwise its commits are not recognized as its own, and a review comment can go unanswered if another run
    changes the same lines first."""
    signing_key: Path | None = None
    """File with an SSH private key without a passphrase, as `ssh-keygen -t ed25519` writes it. Commits are
    signed with this key, and the forge's account must know its public key. `None`: commits are not signed."""

    @model_validator(mode="after")
    def _has_one_signer(self) -> Commits:
        given = [name for name in ("name", "email", "signing_key") if getattr(self, name)]
        if self.sign is Signing.GITHUB and given:
            raise ValueError(
                f"{', '.join(given)} cannot be combined with `sign: github`, where author and signature are "
                "GitHub's decision: remove it, or use `sign: key`"
            )
        return self


class Consumer(Section):
    """How attempts work on tasks."""

    runner: RunnerName = RunnerName.BUILTIN
    """The coding agent that does the work. All but `builtin` are programs in the workspace's image."""
    runners: dict[str, RunnerName] = Field(default_factory=dict)
    """Coding agents of single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""
    command: tuple[str, ...] = ()
    """For `runner: command`: a program and its arguments. It gets the prompt on its standard input."""
    concurrency: int = Field(default=1, gt=0)
    """Number of tasks at the same time in one process."""
    max_attempts: int = Field(default=3, gt=0)
    """Maximum number of attempts of one task, not counting attempts that the cluster disrupted."""
    timeout_seconds: int = Field(default=3600, gt=0)
    """Seconds of wall-clock time for one attempt."""
    checkpoint_interval: float = Field(default=600.0, ge=0)
    """Seconds between two pushes of unfinished work, so that a killed attempt does not lose it; 0: never."""
    retry_delay: float = Field(default=30.0, ge=0)
    """Without Kubernetes: seconds before the second attempt; doubled for each further attempt, up to
    `retry_delay_max`. With Kubernetes see `operator.policy.backoff_base`."""
    retry_delay_max: float = Field(default=600.0, ge=0)
    """Longest delay before an attempt, in seconds. RabbitMQ rounds delays up, by a quarter at most."""
    http_host: str = "0.0.0.0"  # noqa: S104 - Prometheus comes from outside of the container
    """Address of `/metrics` in `--mode consumer`."""
    http_port: int = Field(default=8081, ge=0, le=65535)
    """Port of `/metrics` in `--mode consumer`."""
    cancel_check_interval: float = Field(default=30.0, gt=0)
    """Seconds between two checks of the item's labels; a task stops when the item has none of the bot's
    labels."""
    max_tool_errors: int = Field(default=3, gt=0)
    """Consecutive errors of one tool that end the attempt."""
    branch_prefix: str = Field(default="coding-agent/", min_length=1)
    """Prefix of the name of every branch for an issue. For an issue, the agent pushes to no other branch."""
    commits: Commits = Commits()
    workspace: WorkspaceSettings = WorkspaceSettings()

    @model_validator(mode="after")
    def _has_a_command(self) -> Consumer:
        if RunnerName.COMMAND in (self.runner, *self.runners.values()) and not self.command:
            raise ValueError("`command` is empty: `runner: command` needs a program and its arguments")
        return self


class UserConfigApi(Section):
    """The service of the per-user settings."""

    enabled: bool = False
    """Whether to ask the service for the settings of the person who applied the label."""
    url: Url = "http://user-config-api:8080"
    """Base URL of the service."""
    api_key: SecretField = SecretSettings()
    """API key of the service, sent as a Bearer token."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for one answer. The service is asked up to five times within 20 seconds; then the
    common settings apply, with a warning."""


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


class BucketIdentity(Section):
    """An IAM role that may write to the bucket, in place of keys. The pod proves it with a token of its
    ServiceAccount, as STS describes for `AssumeRoleWithWebIdentity`."""

    role_arn: str = Field(pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$")
    """The role, for example `arn:aws:iam::123456789012:role/transcripts`."""
    token_file: Path = Path("/var/run/secrets/coding-agent.dev/bucket/token")
    """File with the token, which is mounted only into the agent's container. The Helm chart mounts it."""
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
    timeout: float = Field(default=5.0, gt=0)
    """Seconds for one request; large transcripts are sent in parts of 5 MB, one request for each."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Retries of the last upload."""

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
    upload_interval: float = Field(default=15.0, gt=0)
    """Minimum number of seconds between two uploads of a running attempt's transcript."""
    link: Url | None = None
    """Address at which people can read a transcript: `{key}` stands for its path below `base_dir` or the
    bucket's prefix, `{place}` for the whole place, both percent-encoded. Shown in the item's comment."""
    compression_threshold: float = Field(default=0.7, gt=0, le=1)
    """Share of the context length at which the older part is summarized."""
    keep_recent_messages: int = Field(default=5, ge=1)
    """Messages at the end that are never summarized."""
    cleanup_days: int = Field(default=30, ge=0)
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
    port: int = Field(default=3128, ge=1, le=65535)
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


ImagePattern = Annotated[str, AfterValidator(image_pattern)]
"""An image with its registry; `*` stands for any characters but `/`, and not in the host."""
_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class ServiceResources(Section):
    """Resources of each service's container."""

    cpu: _Quantity = "100m"
    """CPU that the scheduler reserves; there is no limit."""
    memory: _Quantity = "512Mi"
    """Memory that is reserved, and the most that the service may use."""
    storage: _Quantity = "2Gi"
    """Size of the folders to which the service can write."""


class RepositoryEnvironment(Section):
    """What a repository's `.coding-agent.yaml` may ask for. By default, only commands."""

    setup: bool = True
    """Whether its `setup` commands run in the workspace before the agent starts. They can do what the model's
    commands can do, each for at most `consumer.workspace.command_timeout` seconds."""
    verify: bool = True
    """Whether its `verify` commands replace those of the setting `verify.commands`."""
    runners: tuple[RunnerName, ...] = ()
    """Coding agents that the repository may choose."""
    images: tuple[ImagePattern, ...] = ()
    """Images that the repository may choose for the workspace, with their registry, for example
    `registry.example.com/team/*`. A `*` stands for any characters but `/`. Without a tag, every tag and
    digest is allowed; with a tag, no digest."""
    service_images: tuple[ImagePattern, ...] = ()
    """Images that the repository may run as services next to the workspace, written as in `images`."""
    service_resources: ServiceResources = ServiceResources()

    def refusal(self, file: RepositoryFile, presets: Collection[str]) -> str | None:
        """Return why a file is refused, as a sentence; `None` if everything that it asks for is allowed.

        Args:
            presets: the names in `egress.presets`.
        """
        if file.setup and not self.setup:
            return _not_allowed("setup", "commands are not run here", "repository_environment.setup")
        if file.verify is not None and not self.verify:
            return _not_allowed("verify", "it is not used here", "repository_environment.verify")
        if file.runner is not None and file.runner not in self.runners:
            return _not_allowed("runner", f"{file.runner} is not allowed", "repository_environment.runners")
        return self.pod_refusal(file.pod, presets)

    def pod_refusal(self, environment: Environment, presets: Collection[str]) -> str | None:
        """Return the same for an environment, because the operator does not trust an attempt's request."""
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
        f"`{ENVIRONMENT_FILE}`, `{field}`: {problem}. An administrator can allow it in "
        f"`{setting}`; otherwise remove it from the file."
    )
