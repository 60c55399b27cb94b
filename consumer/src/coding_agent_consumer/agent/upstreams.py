"""The providers and models behind the gateway, by the settings."""

from __future__ import annotations

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.llm import VENDORS, WireFormat
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets

from coding_agent_consumer.agent.model_spec import model_spec
from coding_agent_consumer.gateway.upstream import Upstream, WorkloadIdentity


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
    for name, section in settings.llm.vendors.items():
        key = Secrets(section.api_key).first()
        if WireFormat(name) is not spec.wire_format and key is not None:
            providers.append(Upstream(WireFormat(name), section.base_url, key))
    for fallback in settings.gateway.fallbacks:
        key = Secrets(fallback.api_key).first()
        providers.append(Upstream(fallback.format, fallback.base_url, key))
    return providers


def allowed_models(settings: Settings) -> tuple[str, ...]:
    """Return the models that requests may name: `gateway.models`, or the models of the providers."""
    if settings.gateway.models:
        return settings.gateway.models
    llm = settings.llm
    names = [llm.provider, *(name for name, own in llm.vendors.items() if Secrets(own.api_key).first())]
    # Claude Code asks for a longer context with a suffix of the model's name, which it does not send.
    models = [one for name in names for one in _spellings(getattr(llm, name).model)]
    return tuple(dict.fromkeys(models))


def _spellings(model: str) -> tuple[str, ...]:
    # Claude Code marks a context of a million tokens in this way; the provider's name lacks the mark.
    return model, model.removesuffix("[1m]")


def _check_identity(settings: Settings) -> None:
    llm = settings.llm
    name, vendor = f"llm.{llm.provider}", VENDORS.get(llm.provider)
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
