"""A new member of `Platform` fails here and in mypy (`assert_never`) until each of these places knows it."""

import pytest
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import FACTS, Platform
from coding_agent_core.settings.credentials import CHART_VALUES
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings


@pytest.mark.parametrize("platform", Platform)
def test_every_platform_has_all_its_facts(platform: Platform) -> None:
    assert set(FACTS[platform].keys) == set(ItemKind)


@pytest.mark.parametrize("platform", Platform)
def test_every_platform_has_settings_and_their_variables(platform: Platform) -> None:
    facts, settings = FACTS[platform], Settings()
    assert settings.forge(platform).host == facts.web_host
    assert not settings.webhook.secret(platform).configured
    secrets = {VARIABLES[name] for name in SECRET_VARIABLES}
    assert {(platform, "personal_access_token"), ("webhook", platform, facts.webhook_setting)} <= secrets
    for setting in (f"{platform}.personal_access_token", f"webhook.{platform}.{facts.webhook_setting}"):
        assert setting in CHART_VALUES
