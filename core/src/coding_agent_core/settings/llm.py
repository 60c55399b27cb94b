"""Settings of the model: its providers, and the gateway with its fallbacks and workload identity."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from coding_agent_core.settings.section import (
    CompletedUrl,
    Interval,
    ModelTokens,
    OptionalUrl,
    SecretField,
    SecretSettings,
    Section,
    Url,
)

_REGION = r"^([a-z]{2,}(-[a-z]+)+-[0-9]+)?$"
_GOOGLE_PROVIDER = (
    r"^(projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+)?$"
)
_NEEDED = {"azure": ("tenant_id", "client_id"), "aws": ("role_arn", "region"), "google": ("provider",)}
_MILLION = Decimal(1_000_000)


class WireFormat(StrEnum):
    """The vendor's wire format in which a client and its provider communicate."""

    ANTHROPIC = "anthropic"
    """The API Messages."""
    OPENAI = "openai"
    """The APIs Responses and Chat Completions."""
    GOOGLE = "google"
    """Gemini's `generateContent` and `streamGenerateContent`."""


class Provider(StrEnum):
    """Whose service has the model; each has a section in `LLM` with its address, model and limits."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OLLAMA = "ollama"
    LMSTUDIO = "lmstudio"


VENDORS = {
    Provider.OPENAI: "api.openai.com",
    Provider.ANTHROPIC: "api.anthropic.com",
    Provider.GOOGLE: "generativelanguage.googleapis.com",
}
"""The providers that have a wire format of the same name and take a key, and the hosts of their own services,
which need it. The other providers are servers of one's own, which speak OpenAI's Chat Completions."""


class Price(Section):
    """What a model's provider charges for a million tokens."""

    input: Decimal = Field(ge=0, le=1_000_000)
    """Price of a million tokens sent."""
    output: Decimal = Field(ge=0, le=1_000_000)
    """Price of a million tokens received."""
    cached_input: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    """Price of a million tokens sent that the provider had in its cache; by default the same as `input`."""
    cache_write: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    """Price of a million tokens sent that the provider put into its cache; by default the same as `input`."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code, for example `USD` or `EUR`."""

    def amount(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, cache_write_tokens: int = 0
    ) -> Decimal:
        """Return what requests cost. `input_tokens` includes tokens from and for the provider's cache."""
        cached = min(max(cached_tokens, 0), input_tokens)
        written = min(max(cache_write_tokens, 0), input_tokens - cached)
        read_rate = self.input if self.cached_input is None else self.cached_input
        write_rate = self.input if self.cache_write is None else self.cache_write
        amount = (input_tokens - cached - written) * self.input + output_tokens * self.output
        return (amount + cached * read_rate + written * write_rate) / _MILLION


class OpenAI(Section):
    """OpenAI, or a service with a compatible API."""

    base_url: Url = "https://api.openai.com/v1"
    """Base URL of the API, including `/v1`, for any compatible service."""
    api: Literal["auto", "responses", "chat"] = "auto"
    """Which of OpenAI's APIs is used. `auto`: Responses at OpenAI itself, Chat Completions elsewhere, because
    few compatible services have Responses."""
    api_key: SecretField = SecretSettings()
    """Key of the service, if it needs one."""
    model: str = "gpt-4o"
    """Name of the model; it must support native tool calls."""
    max_token: ModelTokens = 16384
    """Maximum number of tokens in one answer."""
    context_length: ModelTokens = 128_000
    """Size of the model's context in tokens."""


class Anthropic(Section):
    """Anthropic, or a service with the same API (Messages)."""

    base_url: Url = "https://api.anthropic.com"
    """Base URL of the API, without `/v1`."""
    api_key: SecretField = SecretSettings()
    """Key of the service."""
    model: str = "claude-sonnet-5-5"
    """Name of the model."""
    max_token: ModelTokens = 16384
    """Maximum number of tokens in one answer."""
    context_length: ModelTokens = 200_000
    """Size of the model's context in tokens."""


class Google(Section):
    """Google's Gemini API, or a service with the same API (generateContent)."""

    base_url: Url = "https://generativelanguage.googleapis.com"
    """Base URL of the API, without `/v1beta`."""
    api_key: SecretField = SecretSettings()
    """Key of the service."""
    model: str = "gemini-3.8-flash"
    """Name of the model."""
    max_token: ModelTokens = 16384
    """Maximum number of tokens in one answer."""
    context_length: ModelTokens = 1_000_000
    """Size of the model's context in tokens."""


class Ollama(Section):
    """A local Ollama."""

    endpoint: Url = "http://localhost:11434"
    """Address of the server, without `/v1`."""
    model: str = "qwen3"
    """Name of the model; it must support native tool calls."""
    max_token: ModelTokens = 16384
    """Maximum number of tokens in one answer."""
    context_length: ModelTokens = 32_768
    """Size of the model's context in tokens."""


class LMStudio(Section):
    """A local LM Studio."""

    base_url: CompletedUrl = "http://localhost:1234/v1"
    """Base URL of the server's API; `HOST:PORT` stands for `http://HOST:PORT/v1`."""
    model: str = "local"
    """Name of the model; it must support native tool calls."""
    max_token: ModelTokens = 16384
    """Maximum number of tokens in one answer."""
    context_length: ModelTokens = 32_768
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

    provider: Provider = Provider.OPENAI
    """Which of the sections below is used."""
    openai: OpenAI = OpenAI()
    anthropic: Anthropic = Anthropic()
    google: Google = Google()
    ollama: Ollama = Ollama()
    lmstudio: LMStudio = LMStudio()
    images: bool = True
    """Whether the model gets the images that people attached to the item and its comments. A service that
    refuses them gets only the text."""
    stream: bool | None = None
    """Whether answers are streamed, so that a stalled answer is noticed early. `None`: yes, except with Chat
    Completions of services other than OpenAI, because several of them stream broken tool calls."""
    request_timeout: Interval = 300.0
    """Seconds that the service may be silent while it answers. Without streaming: seconds for the whole
    answer."""
    max_retries: int = Field(default=5, ge=0, le=100)
    """Retries of one request after 429, 5xx and broken connections."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Price of a million tokens, by the model's name; by default the public list price, if known."""

    @property
    def address(self) -> str:
        """Base URL of the service in use."""
        section = getattr(self, self.provider)
        return str(section.endpoint if self.provider is Provider.OLLAMA else section.base_url)

    @property
    def vendors(self) -> dict[Provider, OpenAI | Anthropic | Google]:
        """The sections of the providers that take a key."""
        return {provider: getattr(self, provider) for provider in VENDORS}

    @property
    def model_name(self) -> str:
        return str(getattr(self, self.provider).model)


IDENTITY_TOKEN = Path("/var/run/secrets/coding-agent.dev/token")
"""The token that proves an `Identity`;
`operator.job.pod_template` mounts it into the agent's container alone."""


class Identity(Section):
    """An identity at a cloud, proven by a token of the pod's ServiceAccount. `azure` needs `tenant_id` and
    `client_id`, `aws` needs `role_arn` and `region`, `google` needs `provider`."""

    cloud: Literal["azure", "aws", "google"]
    """`azure`: Microsoft Entra, for Azure OpenAI and Foundry. `aws`: an IAM role, for Bedrock. `google`:
    workload identity federation, for Vertex AI."""
    tenant_id: str = Field(default="", pattern=r"^[A-Za-z0-9.-]*$")
    """Azure: id or domain of the tenant."""
    client_id: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$")
    """Azure: client id of the managed identity or of the application."""
    role_arn: str = Field(default="", pattern=r"^(arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+)?$")
    """AWS: the role that may call the models."""
    region: str = Field(default="", pattern=_REGION)
    """AWS: region of the service, for example `eu-west-1`."""
    provider: str = Field(default="", pattern=_GOOGLE_PROVIDER)
    """Google: full name of the workload identity provider, which starts with `projects/`."""
    service_account: str = Field(default="", pattern=r"^([a-z0-9.-]+@[a-z0-9.-]+)?$")
    """Google: service account to impersonate; if empty, the identity itself must have the permission."""
    endpoint: OptionalUrl = ""
    """Address that exchanges the token, instead of the cloud's own: for example an STS in your network."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in _NEEDED[self.cloud]:
            if not getattr(self, name):
                raise ValueError(f"{name} is missing: `cloud: {self.cloud}` needs it")
        return self

    @property
    def exchange(self) -> str:
        """The address that exchanges the token, without a trailing slash."""
        own = {
            "azure": "https://login.microsoftonline.com",
            "aws": f"https://sts.{self.region}.amazonaws.com",
            "google": "https://sts.googleapis.com",
        }
        return (self.endpoint or own[self.cloud]).rstrip("/")

    @property
    def impersonation(self) -> str | None:
        """Google's address that issues tokens of `service_account`; `None` if it is not needed."""
        if self.cloud != "google" or not self.service_account:
            return None
        return "https://iamcredentials.googleapis.com"


class Fallback(Section):
    """A second provider of the same wire format and the same models."""

    format: WireFormat
    """Wire format: Anthropic's Messages, OpenAI's Responses and Chat Completions, or Google's Gemini."""
    base_url: Url
    """Base URL of the API, as in the section `llm`: with `/v1` for `openai`, without for the others."""
    api_key: SecretField = SecretSettings()
    """Key of the service, if it needs one."""


class GatewaySettings(Section):
    """The gateway through which every agent reaches its model."""

    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9._-]+$")
    """Address or host name of this machine on which an attempt's gateway listens, as the workspace reaches
    it. It must not be loopback if the workspace has its own container, as with Docker Compose."""
    models: tuple[str, ...] = ()
    """Names of the models that agents may use, with `*` for any characters, so `*` alone allows all. If
    empty: the models of the `llm` sections in use, or the model that a task or a person chooses instead."""
    provider_tools: bool = False
    """Whether requests may name tools that the provider runs (web search, remote MCP servers) and files by
    their address. The provider then reaches hosts that the attempt itself cannot reach."""
    fallbacks: tuple[Fallback, ...] = ()
    """Providers that are asked in turn if the first one answers 429 or 5xx, or cannot be reached. Fallbacks
    are not used for people who set their own address or key."""
    identity: Identity | None = None
    """Workload identity that gives access to the provider of `llm.provider` instead of an `api_key`. It is
    not used for people who set their own address, key or provider."""
