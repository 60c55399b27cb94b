"""The settings tree: the existing `config.yaml` keys with ours beside them (requirements S17 and facts).

Every type forbids unknown keys; `load` turns violations into sentences with the file line or the variable.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coding_agent_core.secrets import SecretSettings, as_secret_settings
from coding_agent_core.tasks import Platform, host_of

SecretField = Annotated[SecretSettings, BeforeValidator(as_secret_settings)]


class Section(BaseModel):
    """Base of all sections: immutable, so that one task's settings cannot leak into another's."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Backend(StrEnum):
    """Where tasks wait."""

    MEMORY = "memory"
    RABBITMQ = "rabbitmq"
    KUBERNETES = "kubernetes"


class Labels(Section):
    """The labels that tell an item's state; all others on it are never touched."""

    bot_label: str = Field(default="coding agent", min_length=1)
    """Applied by a person: asks for a task."""
    processing_label: str = Field(default="coding agent processing", min_length=1)
    done_label: str = Field(default="coding agent done", min_length=1)
    failed_label: str | None = None
    """Set when a task failed or was given up; none by default."""


class GitHub(Labels):
    """GitHub, or GitHub Enterprise by `api_url`."""

    api_url: str = "https://api.github.com"
    """REST base URL; GitHub Enterprise: `https://HOST/api/v3`."""
    owner: str = ""
    """Polling: only repositories of this user or organisation."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = "state:open archived:false sort:updated-desc"
    """Polling: appended to the search."""
    personal_access_token: SecretField = SecretSettings()

    @property
    def host(self) -> str:
        """The web host: the API's own, or what stands behind `api.` on github.com and GHE.com.

        GitHub's documentation, *Network details for GHE.com*: the API of SUBDOMAIN.ghe.com is at
        `https://api.SUBDOMAIN.ghe.com`.
        """
        host = host_of(self.api_url)
        bare = host.removeprefix("api.")
        return bare if bare == "github.com" or bare.endswith(".ghe.com") else host


class GitLab(Labels):
    """GitLab.com or a self-managed GitLab by `api_url`."""

    api_url: str = "https://gitlab.com/api/v4"
    """REST base URL; self-managed: `https://HOST/api/v4` (`https://HOST` is completed)."""
    owner: str = ""
    """Kept for compatibility with existing files; the project or group below selects."""
    project_id: str | int = ""
    """Polling: id or path of the one project to search; empty: the group, or the whole instance."""
    group_id: str | int = ""
    """Polling: id or path of the group to search, subgroups included."""
    assignee: str = ""
    """Polling: only items assigned to this user."""
    query: str = ""
    """Polling: search text."""
    personal_access_token: SecretField = SecretSettings()

    @field_validator("api_url")
    @classmethod
    def _complete(cls, value: str) -> str:
        value = value.rstrip("/")
        return value if "/api/" in value else f"{value}/api/v4"

    @property
    def host(self) -> str:
        """The web host."""
        return host_of(self.api_url)


class WebhookServer(Section):
    """Where the receiver listens."""

    host: str = "0.0.0.0"  # noqa: S104 - the specification's default; a container must listen on all
    port: int = Field(default=8000, ge=0, le=65535)


class GitHubWebhook(Section):
    """GitHub webhooks."""

    secret: SecretField = SecretSettings()
    """The webhook's secret; several while it is rotated."""
    events: tuple[str, ...] = ("issues", "pull_request")
    actions: tuple[str, ...] = ("labeled",)


class GitLabWebhook(Section):
    """GitLab webhooks, project, group and system hooks."""

    token: SecretField = SecretSettings()
    """The webhook's secret token; several while it is rotated."""
    events: tuple[str, ...] = ("Issue Hook", "Merge Request Hook")


class RateLimit(Section):
    """Requests for each client address, in slowapi's notation (`100/minute`)."""

    failed: str = "100/minute"
    """Requests that fail verification; answered 429 beyond it."""
    verified: str | None = None
    """Authentic requests. Off by default: GitHub does not send again what was answered 429."""


class Webhook(Section):
    """The receiver."""

    enabled: bool = True
    server: WebhookServer = WebhookServer()
    github: GitHubWebhook = GitHubWebhook()
    gitlab: GitLabWebhook = GitLabWebhook()
    rate_limit: RateLimit = RateLimit()
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed."""
    allowed_networks: tuple[str, ...] = ()
    """If not empty, only these networks may send; `github` stands for GitHub's published hook addresses."""
    max_body_bytes: int = Field(default=25 * 1024 * 1024, gt=0)
    """Larger bodies are answered 413. GitHub caps its payloads at 25 MB."""

    @field_validator("trusted_proxies", "allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for entry in value:
            if entry == "github" and info.field_name == "allowed_networks":
                continue
            try:
                ip_network(entry, strict=False)
            except ValueError as error:
                raise ValueError(f"{entry!r} is no network; write for example 10.0.0.0/8") from error
        return value


def networks(entries: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """The entries that are networks, parsed; keywords are left out."""
    return [ip_network(entry, strict=False) for entry in entries if entry != "github"]


class Scheduling(Section):
    """Polling."""

    interval: int = Field(default=300, gt=0)
    """Seconds between two polls."""


class RabbitMQ(Section):
    """The broker."""

    host: str = "localhost"
    port: int = Field(default=5672, gt=0, le=65535)
    user: str = "guest"
    password: SecretField = SecretSettings()
    """Empty: `guest`, the broker's own default for local connections."""
    queue: str = Field(default="coding_agent_tasks", min_length=1)
    heartbeat: int = Field(default=60, gt=0)
    """Seconds; a dead connection is noticed after about two of them."""
    publish_timeout: float = Field(default=5.0, gt=0)
    """Seconds in which the broker must confirm a task."""


class KubernetesQueue(Section):
    """AgentTasks in a namespace."""

    namespace: str | None = None


class Queue(Section):
    """Which queue."""

    backend: Backend | None = None
    """`None`: RabbitMQ where `use_rabbitmq` is set, else memory."""
    kubernetes: KubernetesQueue = KubernetesQueue()


class McpServer(Section):
    """An MCP server whose tools the agent gets as `<mcp_server_name>_<tool>`."""

    mcp_server_name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    command: tuple[str, ...] = ()
    """Started as a child process and spoken to over stdio."""
    url: str | None = None
    """Spoken to over streamable HTTP instead."""
    headers: dict[str, str] = {}
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_transport(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either `command` (stdio) or `url` (streamable HTTP)")
        return self


class OpenAI(Section):
    """An OpenAI-compatible service."""

    base_url: str = "https://api.openai.com/v1"
    api_key: SecretField = SecretSettings()
    model: str = "gpt-4o"
    max_token: int = Field(default=16384, gt=0)
    """Tokens of one answer."""
    context_length: int = Field(default=128_000, gt=0)
    """Tokens that fit the model's context."""


class Ollama(Section):
    """A local Ollama."""

    endpoint: str = "http://localhost:11434"
    model: str = "qwen3"
    max_token: int = Field(default=16384, gt=0)
    context_length: int = Field(default=32_768, gt=0)


class LMStudio(Section):
    """A local LM Studio."""

    base_url: str = "http://localhost:1234/v1"
    model: str = "local"
    max_token: int = Field(default=16384, gt=0)
    context_length: int = Field(default=32_768, gt=0)


class LLM(Section):
    """The model."""

    provider: Literal["openai", "ollama", "lmstudio"] = "openai"
    function_calling: bool = True
    """Kept for existing files; only native tool calls are supported, and `false` is refused."""
    openai: OpenAI = OpenAI()
    ollama: Ollama = Ollama()
    lmstudio: LMStudio = LMStudio()
    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds for one answer."""
    max_retries: int = Field(default=5, ge=0)
    """Further tries of one request on 429, 5xx and broken connections."""

    @field_validator("function_calling")
    @classmethod
    def _native(cls, value: bool) -> bool:
        if not value:
            raise ValueError("only models with native tool calls are supported; remove it or set it to true")
        return value


class ContextStorage(Section):
    """Transcripts and the compression of long contexts."""

    enabled: bool = True
    base_dir: Path = Path("contexts")
    compression_threshold: float = Field(default=0.7, gt=0, le=1)
    """Share of the context length at which the older part is summarised."""
    keep_recent_messages: int = Field(default=5, ge=1)
    cleanup_days: int = Field(default=30, ge=0)
    """Transcripts older than this are removed; 0 keeps them."""


class Isolation(StrEnum):
    """What stands between the workspace's commands and the agent when both run on one machine."""

    AUTO = "auto"
    """`namespaces` where the kernel lets us, else `none` with a warning."""
    NAMESPACES = "namespaces"
    """Own user, mount and PID namespaces; refuses to work without."""
    NONE = "none"
    """Nothing but a scrubbed environment: for a container that is the isolation itself."""


class Workspace(Section):
    """Where the model's commands run."""

    socket: Path | None = None
    """Socket of a workspace that runs already (the sidecar container); `None`: one is started per task."""
    isolation: Isolation = Isolation.AUTO
    base_dir: Path | None = None
    """Where workspaces are made; `None`: the system's temporary folder."""
    command_timeout: float = Field(default=300.0, gt=0)
    """Seconds for one command, unless the model asks for less."""
    output_limit: int = Field(default=20_000, gt=0)
    """Characters of one command's output that the model sees: its head and tail."""


class Consumer(Section):
    """Attempts at tasks."""

    concurrency: int = Field(default=1, gt=0)
    """Tasks at a time in one process."""
    max_attempts: int = Field(default=3, gt=0)
    timeout_seconds: int = Field(default=3600, gt=0)
    """Wall clock of one attempt."""
    retry_delay: float = Field(default=30.0, ge=0)
    """Seconds before the second attempt; doubled for each further one, capped at `retry_delay_max`."""
    retry_delay_max: float = Field(default=600.0, ge=0)
    cancel_check_interval: float = Field(default=30.0, gt=0)
    """Seconds between two looks at the item's labels while a task runs: none of the flow's left, it stops."""
    max_tool_errors: int = Field(default=3, gt=0)
    """Consecutive errors of one tool that end the attempt."""
    max_malformed_answers: int = Field(default=5, gt=0)
    """Malformed model answers in a row that end the attempt."""
    branch_prefix: str = "coding-agent/"
    commit_name: str = "coding agent"
    commit_email: str = "coding-agent@localhost"
    workspace: Workspace = Workspace()


class UserConfigApi(Section):
    """Per-user settings (requirement S22)."""

    enabled: bool = False
    url: str = "http://user-config-api:8080"
    api_key: SecretField = SecretSettings()
    timeout: float = Field(default=5.0, gt=0)
    """Seconds; after that the defaults are used, with a warning."""


class Logging(Section):
    """Logs."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    file: Path | None = None
    """Also to this file."""


class Settings(BaseSettings):
    """Everything that can be set. `load_settings` makes it; alone it reads neither file nor environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given in place; `load_settings` brings the file and the environment."""
        return (init_settings,)

    task_source: Platform = Platform.GITHUB
    """Which forge the poller asks."""
    github: GitHub = GitHub()
    gitlab: GitLab = GitLab()
    webhook: Webhook = Webhook()
    scheduling: Scheduling = Scheduling()
    queue: Queue = Queue()
    use_rabbitmq: bool = False
    rabbitmq: RabbitMQ = RabbitMQ()
    llm: LLM = LLM()
    system_prompt: str | None = None
    """Replaces the built-in instructions to the agent."""
    mcp_servers: tuple[McpServer, ...] = ()
    max_llm_process_num: int = Field(default=1000, gt=0)
    """Model requests in one attempt."""
    context_storage: ContextStorage = ContextStorage()
    consumer: Consumer = Consumer()
    user_config_api: UserConfigApi = UserConfigApi()
    logging: Logging = Logging()

    @property
    def backend(self) -> Backend:
        """The queue in force: `queue.backend` wins over `use_rabbitmq`."""
        if self.queue.backend is not None:
            return self.queue.backend
        return Backend.RABBITMQ if self.use_rabbitmq else Backend.MEMORY

    def labels(self, platform: Platform) -> Labels:
        """The labels of a platform."""
        return self.github if platform is Platform.GITHUB else self.gitlab

    @property
    def hosts(self) -> dict[Platform, str]:
        """The configured host of each platform."""
        return {Platform.GITHUB: self.github.host, Platform.GITLAB: self.gitlab.host}
