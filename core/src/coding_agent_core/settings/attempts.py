"""Settings of attempts: limits, workspace, model, tools, transcripts, and per-user settings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from coding_agent_core.outcome import Price
from coding_agent_core.settings.llm import Identity
from coding_agent_core.settings.section import SecretField, SecretSettings, Section, Url
from coding_agent_core.tasks import RunnerName


class Isolation(StrEnum):
    """How the workspace's commands are isolated from the agent when both run on one machine."""

    AUTO = "auto"
    """`namespaces` where the kernel allows it, else `none` with a warning."""
    NAMESPACES = "namespaces"
    """User, mount and PID namespaces; an error without them."""
    NONE = "none"
    """Only a scrubbed environment, for a container that is itself the isolation."""


class WorkspaceSettings(Section):
    """Where the model's commands run."""

    socket: Path | None = None
    """Socket of a running workspace (the sidecar container); `None`: each task starts its own."""
    gate: Path | None = None
    """Folder of a workspace container that serves one task after another (Docker Compose)."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds in which a running workspace must first answer."""
    isolation: Isolation = Isolation.AUTO
    """How commands are isolated from the agent on one machine."""
    base_dir: Path | None = None
    """Folder for workspaces; `None`: the system's temporary folder."""
    readable: tuple[Path, ...] = ()
    """For a workspace on the agent's machine: folders outside the system's that commands can read, such as a
    toolchain below a home folder. Not below `/tmp`, which a workspace has of its own."""
    command_timeout: float = Field(default=300.0, gt=0)
    """Seconds for one command, unless the model asks for less."""
    output_limit: int = Field(default=20_000, gt=0)
    """Characters of one command's output that the model sees, from its start and end."""


class Commits(Section):
    """Author and signature of the commits."""

    name: str = ""
    """Name of the author; empty: that of the forge's account."""
    email: str = ""
    """E-mail address of the author; empty: the one by which the forge finds its account (GitHub: its private
    address, GitLab: its commit address)."""
    signing_key: Path | None = None
    """File with an SSH private key without a passphrase, as `ssh-keygen -t ed25519` writes it: commits are
    signed with it. The forge's account must know its public key. `None`: they are not signed."""


class Consumer(Section):
    """Attempts at tasks."""

    runner: RunnerName = RunnerName.BUILTIN
    """The coding agent that does the work. All but `builtin` are programs in the workspace's image."""
    runners: dict[str, RunnerName] = Field(default_factory=dict)
    """Coding agents of single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""
    command: tuple[str, ...] = ()
    """For `runner: command`: a program and its arguments. It gets the prompt on its standard input."""
    concurrency: int = Field(default=1, gt=0)
    """Tasks at a time in one process."""
    max_attempts: int = Field(default=3, gt=0)
    """Most attempts of one task, not counting those that the cluster disrupted."""
    timeout_seconds: int = Field(default=3600, gt=0)
    """Seconds of wall-clock time for one attempt."""
    checkpoint_interval: float = Field(default=600.0, ge=0)
    """Seconds between two pushes of unfinished work, so that a killed attempt does not lose it; 0: never."""
    retry_delay: float = Field(default=30.0, ge=0)
    """Seconds before the second attempt; doubled for each further attempt, up to `retry_delay_max`."""
    retry_delay_max: float = Field(default=600.0, ge=0)
    """Longest delay before an attempt, in seconds."""
    http_host: str = "0.0.0.0"  # noqa: S104 - Prometheus comes from outside of the container
    """Address of `/metrics` in `--mode consumer`."""
    http_port: int = Field(default=8081, ge=0, le=65535)
    """Port of `/metrics` in `--mode consumer`."""
    cancel_check_interval: float = Field(default=30.0, gt=0)
    """Seconds between two checks of the item's labels; a task stops when the item has none of ours."""
    max_tool_errors: int = Field(default=3, gt=0)
    """Consecutive errors of one tool that end the attempt."""
    max_malformed_answers: int = Field(default=5, gt=0)
    """Malformed model answers in a row that end the attempt."""
    branch_prefix: str = "coding-agent/"
    """Prefix of the name of every branch."""
    commits: Commits = Commits()
    workspace: WorkspaceSettings = WorkspaceSettings()

    @model_validator(mode="after")
    def _has_a_command(self) -> Consumer:
        if RunnerName.COMMAND in (self.runner, *self.runners.values()) and not self.command:
            raise ValueError("`command` is empty: `runner: command` needs a program and its arguments")
        return self


class UserConfigApi(Section):
    """The service of per-user settings."""

    enabled: bool = False
    """Ask the service for the settings of the person who applied the label."""
    url: Url = "http://user-config-api:8080"
    """Base URL of the service."""
    api_key: SecretField = SecretSettings()
    """Sent as Bearer token."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for the service; then the defaults are used, with a warning."""


class McpServer(Section):
    """An MCP server whose tools the agent gets as `<mcp_server_name>_<tool>`."""

    mcp_server_name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    """Letters, digits, `_` and `-`; the prefix of its tools' names."""
    command: tuple[str, ...] = ()
    """Command of a child process that speaks MCP over stdio."""
    url: Url | None = None
    """URL of a server that speaks MCP over streamable HTTP instead."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with each request to `url`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Complete environment of `command`, in addition to HOME, PATH, SHELL and TERM."""

    @model_validator(mode="after")
    def _one_transport(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either `command` (stdio) or `url` (streamable HTTP)")
        return self


class Fallback(Section):
    """A second provider of the same wire format and the same models."""

    format: Literal["anthropic", "openai", "google"]
    """Wire format: Anthropic's Messages, OpenAI's Responses and Chat Completions, or Google's Gemini."""
    base_url: Url
    """Base URL of the API, as in the section `llm`: with `/v1` for `openai`, without for the others."""
    api_key: SecretField = SecretSettings()
    """Key of the service, if it needs one."""


class GatewaySettings(Section):
    """The way of every agent to its model."""

    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9._-]+$")
    """Address on which an attempt's gateway listens, or a name of it: of this machine, and as the workspace
    reaches it. Not loopback if the workspace is a container of its own, as with Docker Compose."""
    models: tuple[str, ...] = ()
    """Names of the models that agents may use, with `*` for any characters; empty: all."""
    provider_tools: bool = False
    """Whether requests may name tools that the provider runs (web search, remote MCP servers) and files by
    their address. The provider then reaches hosts that the attempt itself cannot reach."""
    fallbacks: tuple[Fallback, ...] = ()
    """Asked in turn where the provider answers 429 or 5xx, or cannot be reached. Not for people with an
    address or a key of their own."""
    identity: Identity | None = None
    """Workload identity that opens the provider of `llm.provider` in place of its `api_key`. Not for people
    with an address, a key or a provider of their own."""


class OpenAI(Section):
    """OpenAI, or a service with a compatible API."""

    base_url: Url = "https://api.openai.com/v1"
    """Base URL of the API, `/v1` included, for any compatible service."""
    api: Literal["auto", "responses", "chat"] = "auto"
    """Which of OpenAI's APIs is used. `auto`: Responses at OpenAI itself, Chat Completions elsewhere, for few
    compatible services know Responses."""
    api_key: SecretField = SecretSettings()
    """Key of the service, if it needs one."""
    model: str = "gpt-4o"
    """Name of the model; it must support native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Most tokens of one answer."""
    context_length: int = Field(default=128_000, gt=0)
    """Size of the model's context in tokens."""


class Anthropic(Section):
    """Anthropic, or a service with the same API (Messages)."""

    base_url: Url = "https://api.anthropic.com"
    """Base URL of the API, without `/v1`."""
    api_key: SecretField = SecretSettings()
    """Key of the service."""
    model: str = "claude-sonnet-5-5"
    """Name of the model."""
    max_token: int = Field(default=16384, gt=0)
    """Most tokens of one answer."""
    context_length: int = Field(default=200_000, gt=0)
    """Size of the model's context in tokens."""


class Google(Section):
    """Google's Gemini API, or a service with the same API (generateContent)."""

    base_url: Url = "https://generativelanguage.googleapis.com"
    """Base URL of the API, without `/v1beta`."""
    api_key: SecretField = SecretSettings()
    """Key of the service."""
    model: str = "gemini-3.8-flash"
    """Name of the model."""
    max_token: int = Field(default=16384, gt=0)
    """Most tokens of one answer."""
    context_length: int = Field(default=1_000_000, gt=0)
    """Size of the model's context in tokens."""


class Ollama(Section):
    """A local Ollama."""

    endpoint: Url = "http://localhost:11434"
    """Address of the server, without `/v1`."""
    model: str = "qwen3"
    """Name of the model; it must support native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Most tokens of one answer."""
    context_length: int = Field(default=32_768, gt=0)
    """Size of the model's context in tokens."""


class LMStudio(Section):
    """A local LM Studio."""

    base_url: Url = "http://localhost:1234/v1"
    """Base URL of its API; `HOST:PORT` stands for `http://HOST:PORT/v1`."""
    model: str = "local"
    """Name of the model; it must support native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Most tokens of one answer."""
    context_length: int = Field(default=32_768, gt=0)
    """Size of the model's context in tokens."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _complete(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        url = value if "://" in value else f"http://{value}"
        return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"


class LLM(Section):
    """The model."""

    provider: Literal["openai", "anthropic", "google", "ollama", "lmstudio"] = "openai"
    """Which of the sections below is used."""
    openai: OpenAI = OpenAI()
    anthropic: Anthropic = Anthropic()
    google: Google = Google()
    ollama: Ollama = Ollama()
    lmstudio: LMStudio = LMStudio()
    images: bool = True
    """Whether the model gets the images that people attached to the item and its comments. A service that
    refuses them gets the text alone."""
    stream: bool | None = None
    """Whether answers are streamed, so that one that stalls is noticed early. `None`: they are, except by
    Chat Completions of other services than OpenAI, several of which stream broken tool calls."""
    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds without a sign of the service while it answers; not streamed: for the whole answer."""
    max_retries: int = Field(default=5, ge=0)
    """Retries of one request after 429, 5xx and broken connections."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """What a million tokens cost, by the model's name; by default the public list price, if known."""

    @property
    def address(self) -> str:
        """Base URL of the service in use."""
        if self.provider == "ollama":
            return self.ollama.endpoint
        return str(getattr(self, self.provider).base_url)

    @property
    def model_name(self) -> str:
        return str(getattr(self, self.provider).model)


class S3(Section):
    """A bucket of an S3-compatible store, for transcripts that outlive the machine."""

    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$")
    """The bucket's name; it must exist."""
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+/?$")
    """The store's address, for example `https://s3.example.com`; `None`: Amazon's own, by the region."""
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
    timeout: float = Field(default=5.0, gt=0)
    """Seconds for one request; large transcripts are sent in parts of 5 MB, one request for each."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Retries of the last upload."""


class ContextStorage(Section):
    """Transcripts and the compression of long contexts."""

    enabled: bool = True
    """Whether transcripts are kept. The comment shows the last steps in any case."""
    base_dir: Path = Path("contexts")
    """Folder of the transcripts: in a cluster a mounted volume, or a scratch folder if `s3` is set."""
    s3: S3 | None = None
    """Bucket that receives transcripts too, while an attempt runs and at its end."""
    upload_interval: float = Field(default=15.0, gt=0)
    """Least seconds between two uploads of a running attempt's transcript."""
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
