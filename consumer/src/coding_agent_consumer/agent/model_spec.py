"""Choose the model, and the providers behind the gateway, by the settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets

from coding_agent_consumer.gateway import Upstream, WireFormat, WorkloadIdentity

_VENDORS = {
    "openai": "api.openai.com",
    "anthropic": "api.anthropic.com",
    "google": "generativelanguage.googleapis.com",
}
"""The vendors' own hosts, which need a key."""


class Api(StrEnum):
    """The API that a model's service speaks."""

    RESPONSES = "responses"
    CHAT = "chat"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"


@dataclass(frozen=True)
class ModelSpec:
    """A model, the service that has it, and its limits.

    Attributes:
        base_url: the address as the vendor's own SDK expects it: with `/v1` for OpenAI's APIs, without it for
            the others.
        max_tokens: the most tokens of one answer.
        context_length: tokens that fit the model's context.
        request_timeout: seconds without any data from the service after which a request fails.
        setting: the section that sets the model, for messages to people.
        key_place: where the key is set, for messages to people; empty: the service takes none.
        gateway_url: base URL of the gateway to which requests go; `None`: they go to `base_url`.
    """

    provider: str
    api: Api
    base_url: str
    name: str
    max_tokens: int
    context_length: int
    request_timeout: float
    setting: str
    key_place: str = ""
    stream: bool = True
    api_key: str | None = field(default=None, repr=False)
    gateway_url: str | None = None

    @property
    def host(self) -> str:
        """The address without its path, for people, because a path can contain a key."""
        return host_of(self.base_url)

    @property
    def is_vendors_own(self) -> bool:
        """Whether this is the vendor's own service, which knows parameters that compatible ones refuse."""
        return self.provider in _VENDORS and self.host == _VENDORS[self.provider]

    @property
    def wire_format(self) -> WireFormat:
        match self.api:
            case Api.ANTHROPIC:
                return WireFormat.ANTHROPIC
            case Api.GOOGLE:
                return WireFormat.GOOGLE
        return WireFormat.OPENAI

    def through(self, url: str, credential: str) -> ModelSpec:
        """Return a copy whose requests go through a gateway.

        Args:
            url: the gateway's URL, without a path.
            credential: the gateway's own credential; the model's client does not get the real key.
        """
        path = "/v1" if self.wire_format is WireFormat.OPENAI else ""
        return replace(self, gateway_url=url + path, api_key=credential)


def model_spec(settings: Settings) -> ModelSpec:
    """Return the model that the settings name.

    Raises:
        SettingsError: the vendor's own service is chosen, but no key is set.
    """
    llm = settings.llm
    chosen, url, vendor = getattr(llm, llm.provider), llm.address.rstrip("/"), _VENDORS.get(llm.provider)
    is_own = vendor is not None and host_of(url) == vendor
    match llm.provider:
        case "openai" if llm.openai.api != "auto":
            api = Api(llm.openai.api)
        case "openai":
            api = Api.RESPONSES if is_own else Api.CHAT
        case "anthropic" | "google":
            api = Api(llm.provider)
        case _:
            api = Api.CHAT
    if llm.provider == "ollama" and not url.endswith("/v1"):
        url += "/v1"
    spec = ModelSpec(
        provider=llm.provider,
        api=api,
        base_url=url,
        name=chosen.model,
        max_tokens=chosen.max_token,
        context_length=chosen.context_length,
        request_timeout=llm.request_timeout,
        setting=f"llm.{llm.provider}",
        key_place="" if vendor is None else credential_place(settings, f"llm.{llm.provider}.api_key"),
        stream=(is_own or api is not Api.CHAT) if llm.stream is None else llm.stream,
        api_key=None if vendor is None else Secrets(chosen.api_key).first(),
    )
    if spec.is_vendors_own and spec.api_key is None:
        raise SettingsError(
            f"{spec.setting}.api_key is not set; set {spec.key_place}, or choose another llm.provider"
        )
    return spec


def upstreams(settings: Settings) -> list[Upstream]:
    """Return the providers behind the gateway: `llm.provider`, other formats with a key, and the fallbacks.

    Raises:
        SettingsError: the vendor's own service is chosen, but no key is set.
    """
    cloud = settings.gateway.identity
    if cloud is not None:
        _check_identity(settings)
    spec = model_spec(settings)
    identity = WorkloadIdentity(cloud) if cloud is not None else None
    providers = [Upstream(spec.wire_format, spec.base_url, spec.api_key, identity)]
    for name in _VENDORS:
        section = getattr(settings.llm, name)
        key = Secrets(section.api_key).first()
        if WireFormat(name) is not spec.wire_format and key is not None:
            providers.append(Upstream(WireFormat(name), section.base_url, key))
    for fallback in settings.gateway.fallbacks:
        key = Secrets(fallback.api_key).first()
        providers.append(Upstream(WireFormat(fallback.format), fallback.base_url, key))
    return providers


def allowed_models(settings: Settings) -> tuple[str, ...]:
    """Return the models that requests may name: `gateway.models`, or the models of the providers."""
    if settings.gateway.models:
        return settings.gateway.models
    llm = settings.llm
    names = [llm.provider, *(name for name in _VENDORS if Secrets(getattr(llm, name).api_key).first())]
    # Claude Code asks for a longer context with a suffix of the model's name, which it does not send.
    models = [one for name in names for one in _spellings(getattr(llm, name).model)]
    return tuple(dict.fromkeys(models))


def _spellings(model: str) -> tuple[str, ...]:
    # Claude Code marks a context of a million tokens in this way; the provider's name lacks the mark.
    return model, model.removesuffix("[1m]")


def _check_identity(settings: Settings) -> None:
    llm = settings.llm
    name, vendor = f"llm.{llm.provider}", _VENDORS.get(llm.provider)
    if vendor is None or host_of(llm.address) == vendor:
        raise SettingsError(
            f"gateway.identity opens a cloud's service, and {name} is not one: set {name}.base_url to the "
            "cloud's address, or remove gateway.identity"
        )
    if getattr(llm, llm.provider).api_key.configured:
        place = credential_place(settings, f"{name}.api_key")
        raise SettingsError(
            f"{name}.api_key and gateway.identity are both set: remove {place}, or the identity"
        )
