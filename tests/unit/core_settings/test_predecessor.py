"""Every key and variable of the polling agent loads: honored, or named with what replaces it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.settings.credentials import CHART_VALUES, credential_place
from coding_agent_core.settings.load import examine
from coding_agent_core.settings.model import VARIABLES, Settings
from coding_agent_core.settings.predecessor import OLD_KEYS, OLD_VARIABLES
from coding_agent_core.settings.reading import Findings

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "tests/fixtures/polling_agent"
READ_BY_THE_POLLING_AGENT = re.findall(
    r"\w+",
    """
TASK_SOURCE LOGS DEBUG FUNCTION_CALLING LLM_PROVIDER LMSTUDIO_BASE_URL LMSTUDIO_MODEL OLLAMA_ENDPOINT
OLLAMA_MODEL OPENAI_BASE_URL OPENAI_MODEL OPENAI_API_KEY GITHUB_MCP_COMMAND RABBITMQ_HOST RABBITMQ_PORT
RABBITMQ_USER RABBITMQ_PASSWORD RABBITMQ_QUEUE GITHUB_BOT_NAME GITLAB_BOT_NAME USE_USER_CONFIG_API
USER_CONFIG_API_URL USER_CONFIG_API_KEY API_SERVER_KEY GITHUB_PERSONAL_ACCESS_TOKEN
GITLAB_PERSONAL_ACCESS_TOKEN GITLAB_API_URL GITHUB_API_URL DATABASE_URL DATABASE_HOST DATABASE_PORT
DATABASE_NAME DATABASE_USER DATABASE_PASSWORD COMMAND_EXECUTOR_ENABLED TEXT_EDITOR_MCP_ENABLED
PLAYWRIGHT_MCP_ENABLED
ISSUE_TO_MR_ENABLED PROJECT_AGENT_RULES_ENABLED EXECUTOR_DEFAULT_ENVIRONMENT EXECUTOR_BASE_IMAGE
EXECUTOR_CPU_LIMIT EXECUTOR_MEMORY_LIMIT EXECUTOR_TIMEOUT
""",
)


def of(name: str, **environment: str) -> Findings[Settings]:
    findings = examine(FILES / name, environment)
    assert findings.errors == ()
    return findings


def keys(findings: Findings[Settings]) -> list[str]:
    """`LINE: KEY` of each warning."""
    return [":".join(warning.split(", line ", 1)[1].split(":")[:2]) for warning in findings.warnings]


def test_the_browser_of_commits_between_the_two_files_is_ignored(tmp_path: Path) -> None:
    """The section of 03a4afe, which config_newest.yaml does not have any more."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "playwright_mcp:\n  enabled: true\n  mcp_server: {name: playwright, command: [npx, server]}\n"
        "  playwright: {browser: chromium, headless: true, viewport: {width: 1280, height: 720}}\n"
    )
    findings = examine(file, {"PLAYWRIGHT_MCP_ENABLED": "true"})
    assert findings.errors == ()
    assert [
        warning.partition(": ignored: no browser is started")[1] != "" for warning in findings.warnings
    ] == [
        True,
        True,
    ]


def test_config_yaml() -> None:
    findings = of("config.yaml")
    assert keys(findings) == [
        "3: mcp_servers.0",
        "10: mcp_servers.1",
        "28: api_server",
        "33: llm.function_calling",
        "45: llm.openai.api_key",
        "57: context_storage.summary_prompt",
        "66: github.query",
        "69: gitlab.owner",
        "73: gitlab.project_id",
    ]
    settings: Any = findings.require()
    assert [server.mcp_server_name for server in settings.mcp_servers] == ["googlesearch", "webfetch"]
    assert settings.llm.lmstudio.base_url == "http://host.docker.internal:1234/v1"
    assert not settings.llm.openai.api_key.configured
    assert settings.llm.openai.max_token == 40960
    assert (settings.github.owner, settings.github.query) == (
        "acme",
        "state:open archived:false sort:updated-desc sort:updated-desc author:@me",
    )
    assert (settings.gitlab.assignee, settings.gitlab.projects) == ("alice", ())
    assert settings.use_rabbitmq
    assert settings.rabbitmq.host == "host.docker.internal"


def test_the_newest_config_yaml() -> None:
    findings = of("config_newest.yaml")
    assert keys(findings) == [
        "4: mcp_servers.0",
        "10: mcp_servers.1",
        "18: database",
        "32: llm.function_calling",
        "44: llm.openai.api_key",
        "49: planning",
        "111: context_storage.summary_prompt",
        "112: context_inheritance",
        "124: github.bot_name",
        "128: github.paused_label",
        "129: github.stopped_label",
        "130: github.query",
        "132: gitlab.owner",
        "133: gitlab.bot_name",
        "137: gitlab.paused_label",
        "138: gitlab.stopped_label",
        "139: gitlab.project_id",
        "141: issue_to_mr_conversion",
        "148: project_agent_rules",
        "161: file_list_context",
        "164: pause_resume",
        "177: continuous",
        "188: command_executor",
        "224: text_editor_mcp",
    ]
    settings: Any = findings.require()
    assert (settings.github.account, settings.github.assignee) == ("robot", "")
    assert settings.github.query.endswith(" author:@me")
    assert (settings.gitlab.account, settings.gitlab.assignee) == ("robot", "robot")
    assert settings.mcp_servers == ()


def test_each_variable_is_a_setting_or_named() -> None:
    ignored = {old.name for old in OLD_VARIABLES}
    for name in READ_BY_THE_POLLING_AGENT:
        assert (name in VARIABLES) != (name in ignored), name
        if name in ignored:
            findings = examine(Path("/dev/null"), {name: "x"})
            assert [warning.split(":")[0] for warning in findings.warnings] == [name]


def test_bot_names_are_assignees_and_then_the_author_does_not_matter() -> None:
    findings = of("config.yaml", GITHUB_BOT_NAME="robot", GITLAB_BOT_NAME="robot-2")
    settings: Any = findings.require()
    assert (settings.github.assignee, settings.gitlab.assignee) == ("robot", "robot-2")
    assert "author:" not in settings.github.query


def written(tmp_path: Path, text: str, **environment: str) -> Findings[Settings]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return examine(path, environment)


def test_a_prompt_of_an_mcp_server_joins_the_instructions(tmp_path: Path) -> None:
    text = "instructions: A\nmcp_servers:\n  - {mcp_server_name: x, command: [y], system_prompt: B}\n"
    findings = written(tmp_path, text)
    assert findings.require().instructions == "A\n\nB"
    assert keys(findings) == ["3: mcp_servers.0.system_prompt"]


def test_an_empty_variable_of_an_mcp_server_has_the_agents_own_value(tmp_path: Path) -> None:
    text = "mcp_servers:\n  - {mcp_server_name: x, command: [y], env: {KEY: '', LEVEL: '', MODE: a}}\n"
    findings = written(tmp_path, text, KEY="k")
    assert findings.require().mcp_servers[0].env == {"KEY": "k", "MODE": "a"}
    assert keys(findings) == ["2: mcp_servers.0.env.KEY", "2: mcp_servers.0.env.LEVEL"]


def test_a_key_that_nobody_knows_is_an_error_and_all_of_them_are_given_at_once(tmp_path: Path) -> None:
    text = """\
api_server: {api_key: x}
mcp_servers:
  - {mcp_server_name: github, command: [x]}
  - {mcp_server_name: other, comand: [x]}
webhok: {}
github: {bot_label: a, bot_label: b, api_url: nonsense}
"""
    findings = written(tmp_path, text, DEBUG="perhaps", WEBHOOK_SERVER_PORT="eighty")
    assert findings.settings is None
    shown = "\n".join(findings.errors)
    for part in (
        "4: mcp_servers.0.comand: unknown setting; did you mean `command`?",
        "5: webhok: unknown setting",
        "6: github.bot_label is given twice",
        "6: github.api_url: 'nonsense' is not an http(s) URL",
        "DEBUG: 'perhaps' is neither true nor false",
        "WEBHOOK_SERVER_PORT: webhook.server.port",
    ):
        assert part in shown
    assert keys(findings) == ["1: api_server", "3: mcp_servers.0", "6: github.query"]


@pytest.mark.parametrize("document", ["index.md", "index.ja.md"])
def test_the_migration_guide_names_every_old_key(document: str) -> None:
    text = (ROOT / "docs" / "migration" / document).read_text(encoding="utf-8")
    for old in (*OLD_KEYS, *OLD_VARIABLES):
        rows = (line for line in text.splitlines() if line.startswith("| `"))
        row = next((line for line in rows if f"`{old.name}`" in line.split(" | ")[0]), None)
        assert row is not None, f"no row for {old.name}"
        if old.honored_as:
            assert f"`{old.honored_as}`" in row
        if document == "index.md":
            assert old.advice in row


VALUES = Path(__file__).resolve().parents[3] / "charts" / "coding-agent" / "values.yaml"
FILE = {"files": ["/etc/coding-agent/credentials/openai-api-key"]}
MOUNTED = {"secret": "team-model", "key": "api-key", "file": "openai-api-key"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "`llm.openai.api_key` (OPENAI_API_KEY)"),
        (
            {
                "queue": {"backend": "kubernetes"},
                "llm": {"openai": {"api_key": FILE}},
                "operator": {"job": {"credentials": [MOUNTED, {**MOUNTED, "file": "github-token"}]}},
            },
            "the key `api-key` of the Secret `team-model` (the chart's value `secrets.model.apiKey`)",
        ),
        (
            {
                "queue": {"backend": "kubernetes"},
                "llm": {"openai": {"api_key": FILE}},
                "operator": {
                    "job": {"credentials": [MOUNTED, {**MOUNTED, "secret": "b", "repository": "o/r"}]}
                },
            },
            "the key `api-key` of the Secret `team-model` or the key `api-key` of the Secret `b` "
            "(the chart's value `secrets.model.apiKey`)",
        ),
    ],
)
def test_where_a_key_is_set(given: dict[str, Any], expected: str) -> None:
    assert credential_place(Settings.model_validate(given), "llm.openai.api_key") == expected


@pytest.mark.parametrize("setting", CHART_VALUES)
def test_the_chart_has_each_value(setting: str) -> None:
    value = yaml.safe_load(VALUES.read_text())
    for part in CHART_VALUES[setting].split("."):
        value = value[part]
    assert value == ""
    place = credential_place(Settings.model_validate({"queue": {"backend": "kubernetes"}}), setting)
    assert place == f"the chart's value `{CHART_VALUES[setting]}`"
