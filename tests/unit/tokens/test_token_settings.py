"""The token service reads the App, GitHub's address and the log's settings, and nothing else of a file."""

from pathlib import Path

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.reading import read_settings
from coding_agent_tokens.__main__ import VARIABLES, TokenSettings


def settings(text: str, folder: Path, **environment: str) -> TokenSettings:
    file = folder / "config.yaml"
    file.write_text(text)
    return read_settings(TokenSettings, VARIABLES, file, environment).require()


def test_mistakes_in_settings_of_other_programs_do_not_stop_it(tmp_path: Path) -> None:
    text = """
github:
  api_url: https://forge.example.com/api/v3
  bot_label: [wrong]
  app: {app_id: 7, private_key_file: /key}
llm: {provider: nobody}
consumer: {unknown: 1}
logging: {level: DEBUG}
"""
    found = settings(text, tmp_path, LLM_PROVIDER="nobody", LOG_FORMAT="json")
    assert found.github.host == "forge.example.com"
    assert found.github.app is not None
    assert found.github.app.app_id == 7
    assert (found.logging.level, found.logging.format) == ("DEBUG", "json")


def test_mistakes_in_its_own_settings_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"line 3: github\.app\.app_id: must be a whole number"):
        settings("github:\n  app:\n    app_id: seven\n    private_key_file: /key\n", tmp_path)


def test_the_environment_wins(tmp_path: Path) -> None:
    text = "github: {api_url: 'https://a.test', app: {app_id: 7, private_key_file: /key}}"
    assert settings(text, tmp_path, GITHUB_API_URL="https://b.test").github.host == "b.test"
