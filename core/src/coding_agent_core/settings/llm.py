"""Settings of the model, its context and its further tools."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from coding_agent_core.cost import Price
from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section


class McpServer(Section):
    """An MCP server whose tools the agent gets as `<mcp_server_name>_<tool>`."""

    mcp_server_name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    """Letters, digits, `_` and `-`; begins the names of its tools."""
    command: tuple[str, ...] = ()
    """Started as a child process and spoken to over stdio."""
    url: str | None = None
    """Spoken to over streamable HTTP instead."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with each request to `url`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of `command`; nothing else of ours is in it."""

    @model_validator(mode="after")
    def _one_transport(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either `command` (stdio) or `url` (streamable HTTP)")
        return self


class OpenAI(Section):
    """An OpenAI-compatible service."""

    base_url: str = "https://api.openai.com/v1"
    """Base URL of the API, for any compatible service."""
    api_key: SecretField = SecretSettings()
    """Key of the service; may be absent where it needs none."""
    model: str = "gpt-4o"
    """Name of the model; it must have native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Tokens of one answer."""
    context_length: int = Field(default=128_000, gt=0)
    """Tokens that fit the model's context."""


class Ollama(Section):
    """A local Ollama."""

    endpoint: str = "http://localhost:11434"
    """Address of the server, without `/v1`."""
    model: str = "qwen3"
    """Name of the model; it must have native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Tokens of one answer."""
    context_length: int = Field(default=32_768, gt=0)
    """Tokens that fit the model's context."""


class LMStudio(Section):
    """A local LM Studio."""

    base_url: str = "http://localhost:1234/v1"
    """Base URL of its API, with `/v1`."""
    model: str = "local"
    """Name of the model; it must have native tool calls."""
    max_token: int = Field(default=16384, gt=0)
    """Tokens of one answer."""
    context_length: int = Field(default=32_768, gt=0)
    """Tokens that fit the model's context."""


class LLM(Section):
    """The model."""

    provider: Literal["openai", "ollama", "lmstudio"] = "openai"
    """Which of the sections below is used."""
    function_calling: bool = True
    """Kept for existing files; only native tool calls are supported, and `false` is refused."""
    openai: OpenAI = OpenAI()
    ollama: Ollama = Ollama()
    lmstudio: LMStudio = LMStudio()
    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds for one answer."""
    max_retries: int = Field(default=5, ge=0)
    """Further tries of one request on 429, 5xx and broken connections."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """What a million tokens cost, by the model's name; a model that is not here has no cost shown."""

    @field_validator("function_calling")
    @classmethod
    def _native(cls, value: bool) -> bool:
        if not value:
            raise ValueError("only models with native tool calls are supported; remove it or set it to true")
        return value


class S3(Section):
    """A bucket of an S3-compatible store, for transcripts that outlive the machine."""

    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$")
    """The bucket's name; it must exist."""
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+/?$")
    """The store's address, for example `https://s3.example.com`; `None`: Amazon's own, by the region."""
    region: str = Field(default="us-east-1", min_length=1)
    """Region that requests are signed for."""
    prefix: str = Field(default="transcripts", max_length=200, pattern=r"^[A-Za-z0-9!_.*'()/-]*$")
    """Folder in the bucket below which all transcripts are."""
    path_style: bool = True
    """Whether the bucket stands in the path, as most compatible stores want it, or in the host name."""
    access_key_id: SecretField = SecretSettings()
    """Of the account that may write to the bucket."""
    secret_access_key: SecretField = SecretSettings()
    """Belongs to `access_key_id`."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds for one request; large transcripts go in parts of 5 MB, each a request."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further tries of the last upload."""


class ContextStorage(Section):
    """Transcripts and the compression of long contexts."""

    enabled: bool = True
    """Whether transcripts are kept at all; without them the last steps are told all the same."""
    base_dir: Path = Path("contexts")
    """Folder of the transcripts: in a cluster a mounted volume, or a scratch folder where `s3` is given."""
    s3: S3 | None = None
    """Keep them in this bucket too, while an attempt runs and at its end."""
    upload_interval: float = Field(default=15.0, gt=0)
    """Seconds between two uploads of a running attempt's transcript, at least."""
    link: str | None = None
    """Address at which people can read a transcript: `{key}` stands for its path below `base_dir` or the
    bucket's prefix, `{place}` for the whole place, both percent-encoded. Shown in the item's comment."""
    compression_threshold: float = Field(default=0.7, gt=0, le=1)
    """Share of the context length at which the older part is summarised."""
    keep_recent_messages: int = Field(default=5, ge=1)
    """Messages at the end that are never summarised."""
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
