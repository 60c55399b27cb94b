"""What a further provider of models needs: `missing` is the list."""

import re
from pathlib import Path

import pytest
from coding_agent_consumer.agent.model_spec import Api, model_spec
from coding_agent_consumer.attempt.per_user import PersonalSettings
from coding_agent_core.settings.credentials import CHART_VALUES
from coding_agent_core.settings.llm import LLM, VENDORS, Provider, WireFormat
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = "core/src/coding_agent_core/settings"
AGENT = "consumer/src/coding_agent_consumer/agent"
GATEWAY = "consumer/src/coding_agent_consumer/gateway/wire_formats.py"


def missing(name: str, *, has_key: bool) -> list[str]:
    """The parts that a provider lacks. A new wire format also needs a client, and a meter in the gateway."""
    section = LLM.model_fields[name].annotation if name in LLM.model_fields else None
    fields = set(getattr(section, "model_fields", {}))
    [address] = fields & {"base_url", "endpoint"} or {"base_url"}
    personal = PersonalSettings().llm
    settings = [address, "model", *(["api_key"] if has_key else [])]
    variables = {setting: _variable("llm", name, setting) for setting in settings}
    compose, env = (
        (ROOT / file).read_text(encoding="utf-8") for file in ("docker-compose.yml", ".env.example")
    )
    has = {
        f"{SETTINGS}/llm.py: a line in Provider": name in set(Provider),
        f"{SETTINGS}/llm.py: a section in LLM": section is not None,
        "consumer/src/coding_agent_consumer/attempt/per_user.py: a section in _LLM": hasattr(personal, name),
        "docs/models.md: an example": f"provider: {name}\n" in (ROOT / "docs" / "models.md").read_text(),
        ".env.example: its name": re.search(rf"^#.*\b{name}\b", env, re.MULTILINE) is not None,
    }
    for setting, variable in variables.items():
        has[f"{SETTINGS}/llm.py: {setting} in its section"] = setting in fields
        has[f"{SETTINGS}/reading.py: a variable for {setting}"] = variable is not None
        has[f"docker-compose.yml: the variable of {setting}"] = f"{variable}: ${{{variable}" in compose
    if has_key:
        key = variables["api_key"]
        has |= {
            f"{SETTINGS}/llm.py: a line in VENDORS": name in VENDORS,
            f"{SETTINGS}/llm.py: a line in WireFormat": name in set(WireFormat),
            f"{SETTINGS}/reading.py: the key in COMMON_SECRETS": key in SECRET_VARIABLES,
            f"{AGENT}/model_spec.py: a line in Api": name == "openai" or name in set(Api),
            f"{GATEWAY}: its paths": f"WireFormat.{name.upper()}, " in (ROOT / GATEWAY).read_text(),
        }
    return [part for part, there in has.items() if not there]


def _variable(*setting: str) -> str | None:
    return next((variable for variable, place in VARIABLES.items() if place == setting), None)


@pytest.mark.parametrize("provider", Provider)
def test_a_registered_provider_has_every_part(provider: Provider) -> None:
    assert missing(provider, has_key=provider in VENDORS) == []
    key = {"api_key": {"values": ["a-key"]}} if provider in VENDORS else {}
    spec = model_spec(Settings.model_validate({"llm": {"provider": provider, provider: key}}))
    assert (spec.provider, spec.setting) == (provider, f"llm.{provider}")
    assert spec.is_vendors_own == (provider in VENDORS), "the default address is the vendor's own"
    assert (f"llm.{provider}.api_key" in CHART_VALUES) == (provider in VENDORS)


@pytest.mark.parametrize(("has_key", "parts"), [(False, 11), (True, 19)])
def test_a_new_provider_lacks_every_part(has_key: bool, parts: int) -> None:
    assert len(missing("acme", has_key=has_key)) == parts
