"""Chooses the model of an attempt, by the settings and the task's options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.llm import VENDORS, Provider, WireFormat
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets, for_repository
from coding_agent_core.task.model import Item
from coding_agent_core.task.runners import RunnerName


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

    provider: Provider
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
        return self.host == VENDORS.get(self.provider)

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
    chosen, url, vendor = getattr(llm, llm.provider), llm.address.rstrip("/"), VENDORS.get(llm.provider)
    is_own = vendor is not None and host_of(url) == vendor
    match llm.provider:
        case Provider.OPENAI if llm.openai.api != "auto":
            api = Api(llm.openai.api)
        case Provider.OPENAI:
            api = Api.RESPONSES if is_own else Api.CHAT
        case Provider.ANTHROPIC | Provider.GOOGLE:
            api = Api(llm.provider)
        case _:
            api = Api.CHAT
    if llm.provider is Provider.OLLAMA and not url.endswith("/v1"):
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


def with_task_options(
    settings: Settings,
    item: Item,
    *,
    model: str | None = None,
    runner: RunnerName | None = None,
    instructions: str | None = None,
) -> Settings:
    """Return a copy of the settings with a task's runner, model and instructions.

    The task's runner wins over the repository's. Its instructions come after the installation's.
    """
    chosen = runner or for_repository(settings.consumer.runners, item.host, item.repository)
    if chosen is not None:
        consumer = settings.consumer.model_copy(update={"runner": chosen})
        settings = settings.model_copy(update={"consumer": consumer})
    if model is not None:
        # A runner may use another service than the provider: the one that speaks its format.
        names = {settings.llm.provider, *(wire_format.value for wire_format in WireFormat)}
        sections = {name: getattr(settings.llm, name).model_copy(update={"model": model}) for name in names}
        settings = settings.model_copy(update={"llm": settings.llm.model_copy(update=sections)})
    if instructions is not None:
        joined = "\n\n".join(filter(None, (settings.instructions, instructions)))
        settings = settings.model_copy(update={"instructions": joined})
    return settings
