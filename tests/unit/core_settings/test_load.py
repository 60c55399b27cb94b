"""S17: `config.yaml` with `${VAR}`, environment variables that win, and errors that name key and place."""

import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.attempt_settings import Signing
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Backend, Settings
from coding_agent_core.settings.moved import MOVED, Removed
from coding_agent_core.settings.operator import Operator
from coding_agent_core.settings.section import Secrets
from pydantic import BaseModel, ValidationError

ROOT = Path(__file__).parents[3]
DEFAULTS: Any = load_settings(Path("/dev/null"), {})


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_repositorys_own_file_loads_and_equals_the_defaults() -> None:
    own: Any = load_settings(ROOT / "config.yaml", {})
    assert own.github == DEFAULTS.github


def test_every_variable_wins_over_the_file(tmp_path: Path) -> None:
    values = {
        "TASK_SOURCE": "gitlab",
        "WEBHOOK_ENABLED": "false",
        "WEBHOOK_SERVER_PORT": "9001",
        "COMMENT_KEY": "from-the-environment-with-its-length",
        "LLM_PROVIDER": "ollama",
        "USE_RABBITMQ": "true",
        "QUEUE_BACKEND": "rabbitmq",
        "RABBITMQ_PORT": "5673",
        "USE_USER_CONFIG_API": "true",
        "LOG_FORMAT": "json",
        "DEBUG": "true",
    }
    path = write(tmp_path, "webhook:\n  server: {host: 127.0.0.1, port: 1111}\n")
    before = load_settings(path, {})
    for name, where in VARIABLES.items():
        url = name.endswith(("_URL", "_ENDPOINT", "_PROXY"))
        value = values.get(name, "https://x.example.com:3128" if url else "from-the-environment")
        settings = load_settings(path, {name: value})
        if name == "WEBHOOK_SERVER_PORT":
            assert settings.webhook.server.host == "127.0.0.1", "what stands beside it in the file is kept"
        at, old = reduce(getattr, where, settings), reduce(getattr, where, before)
        assert at != old, name
        if name in SECRET_VARIABLES:
            assert Secrets(at).current() == [value]  # type: ignore[arg-type]
        elif name != "DEBUG":
            assert str(at).lower().startswith(value.lower()), name


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (
            "github:\n  bot_labl: x\n",
            {},
            "line 2: github.bot_labl: unknown setting; did you mean `bot_label`?",
        ),
        (
            "limits: {concurrency: 3}\n",
            {},
            "limits.concurrency: unknown setting; known settings here: global, per_repository, overrides",
        ),
        (
            "operator:\n  sweep_interval: 60\n",
            {},
            "line 2: operator.sweep_interval: this setting was removed: 300 s (tests: "
            "`development.sweep_interval`)",
        ),
        (
            "reporter: {burst: 3}\n",
            {},
            "line 1: reporter.burst: this setting moved; write instead: `reporter.forge_share`",
        ),
        ("webhook:\n  server:\n    port: 70000\n", {}, "line 3: webhook.server.port: "),
        ("", {"WEBHOOK_SERVER_PORT": "eighty"}, "WEBHOOK_SERVER_PORT: webhook.server.port: "),
        ("", {"DEBUG": "perhaps"}, "DEBUG: 'perhaps' is neither true nor false"),
        ("github: {bot_label: a, bot_label: b}\n", {}, "line 1: github.bot_label is given twice"),
        ("github: [\n", {}, "not valid YAML"),
        ("- a\n", {}, "the file must contain a mapping"),
        ("mcp_servers:\n  - mcp_server_name: a\n", {}, "line 2: mcp_servers.0: give either `command`"),
        (
            "webhook:\n  rate_limit: {failed: often}\n",
            {},
            "line 2: webhook.rate_limit.failed: 'often' is not a rate limit",
        ),
        ("llm: {openai: {base_url: models}}\n", {}, "llm.openai.base_url: 'models' is not an http(s)"),
        ("webhook:\n  trusted_proxies: [nonsense]\n", {}, "'nonsense' is not a network"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    tmp_path: Path, text: str, environment: dict[str, str], expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, text), environment)
    assert expected in str(caught.value)


def settings_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        at = f"{path}{field.alias or name}"
        yield at
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{at}.")


def test_what_moved_is_no_setting_and_what_to_write_instead_is_one() -> None:
    known = set(settings_of(Settings))
    assert known.isdisjoint(MOVED)
    sections = "|".join(Settings.model_fields)
    for old, change in MOVED.items():
        instead = change.now if isinstance(change, Removed) else change.instead
        for name in re.findall(rf"`((?:{sections})\.[a-z_.]+)", instead):
            # Below `pod_template`, and in lists of objects, the keys are those of Kubernetes or of entries.
            assert name in known or re.search(r"pod_template\.|credentials", name), f"{old}: {name}"


def test_an_error_never_shows_a_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            write(tmp_path, "webhook:\n  github:\n    secret: {value: '${S}'}\n"), {"S": "hunter2-hunter2"}
        )
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(load_settings(Path("/dev/null"), {"OPENAI_API_KEY": "hunter2"}))


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("a${X}c", {"X": "b"}, "abc"),
        ("${X:-fallback}", {}, "fallback"),
        ("${X:-fallback}", {"X": ""}, "fallback"),
        ("$$", {}, "$"),
        ("$${X}", {"X": "b"}, "${X}"),
        ("$X", {"X": "b"}, "$X"),
        ("${UNSET}", {}, DEFAULTS.github.owner),
    ],
)
def test_variables_in_values(tmp_path: Path, text: str, environment: dict[str, str], expected: str) -> None:
    settings: Any = load_settings(write(tmp_path, f"github: {{owner: '{text}'}}\n"), environment)
    assert settings.github.owner == expected


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("task_source: gitlab\n")
    assert load_settings(None, {"CONFIG_FILE": str(named)}).task_source == "gitlab"
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {}).task_source == "github", "no file: the defaults"
    (tmp_path / "config.yaml").write_text("task_source: gitlab\n")
    assert load_settings(None, {}).task_source == "gitlab"
    with pytest.raises(SettingsError, match="cannot read the configuration file"):
        load_settings(tmp_path / "absent.yaml", {})


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, Backend.SQLITE),
        ({"USE_RABBITMQ": "true"}, Backend.RABBITMQ),
        ({"QUEUE_BACKEND": "kubernetes", "USE_RABBITMQ": "true"}, Backend.KUBERNETES),
    ],
)
def test_the_backend(environment: dict[str, str], backend: Backend) -> None:
    assert load_settings(Path("/dev/null"), environment).backend is backend


def test_secret_files_are_read_again_when_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    settings: Any = load_settings(
        Path("/dev/null"), {"GITHUB_WEBHOOK_SECRET": "in-place", "GITHUB_WEBHOOK_SECRET_FILE": str(file)}
    )
    secrets = Secrets(settings.webhook.github.secret)
    assert secrets.current() == ["in-place", "old"]
    replacement = tmp_path / "new"
    replacement.write_text("new\n")
    replacement.rename(file)
    assert secrets.current() == ["in-place", "new"]
    file.unlink()
    for _ in range(3):
        assert secrets.current() == ["in-place", "new"], "missing for an instant while it is swapped"
    assert caplog.text.count("Cannot read the secret file") == 1, "asked for at every request"
    file.write_text("newest\n")
    assert secrets.current() == ["in-place", "newest"]
    file.unlink()
    secrets.current()
    assert caplog.text.count("Cannot read the secret file") == 2, "missing again"


def test_the_namespaces_of_an_operator(tmp_path: Path) -> None:
    def operator(text: str) -> Operator:
        return load_settings(write(tmp_path, f"operator: {{namespaces: {text}}}\n"), {}).operator

    assert operator("[]") == Operator()
    assert operator("[team-a, team-b]").namespaces == ("team-a", "team-b")
    assert [operator(text).everywhere for text in ("[]", "[team-a]", '["*"]')] == [False, False, True]
    for wrong, said in {
        '["*", team-a]': "give either it or names",
        "[a, b, a]": "more than once here: a",
        "[Team]": "namespaces.0",
        '["team-*"]': "namespaces.0",
    }.items():
        with pytest.raises(
            SettingsError, match=rf"line 1: operator\.namespaces.*{said}" if "." not in said else said
        ):
            operator(wrong)


def test_a_url_with_user_information_is_refused(tmp_path: Path) -> None:
    for field in (
        "github.api_url",
        "gitlab.api_url",
        "github.redelivery.webhook_url",
        "llm.openai.base_url",
        "llm.ollama.endpoint",
        "llm.lmstudio.base_url",
        "user_config_api.url",
        "context_storage.link",
    ):
        data: Any = "https://me:s3cret-word@h.example/{key}"
        for name in reversed(field.split(".")):
            data = {name: data}
        with pytest.raises(SettingsError) as error:
            load_settings(write(tmp_path, yaml.safe_dump(data)), {})
        assert field in str(error.value)
        assert "Remove the part before the `@`" in str(error.value)
        assert "s3cret-word" not in str(error.value)


def test_a_url_of_an_mcp_server_with_user_information_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"mcp_servers\.0\.url\n.*user information"):
        Settings.model_validate({"mcp_servers": [{"mcp_server_name": "a", "url": "https://me:x@h"}]})
    Settings.model_validate({"mcp_servers": [{"mcp_server_name": "a", "url": "https://h/@scope/x?y=a@b"}]})


def test_budgets_are_money_or_tokens(tmp_path: Path) -> None:
    text = """
queue: {backend: kubernetes}
budgets:
  task: {amount: 2.50, currency: USD}
  repository: {amount: 20, currency: USD}
  repositories: {octo/demo: {amount: 50, currency: USD}}
"""
    budgets = load_settings(write(tmp_path, text), {}).budgets
    assert str(budgets.task) == "2.50 USD"
    assert str(budgets.of("github.com", "Octo/Demo")) == "50.00 USD"
    assert str(budgets.of("github.com", "octo/other")) == "20.00 USD"


GITHUB_SIGNS = "commits: {sign: github}"
USD = "{amount: 5, currency: USD}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("consumer: {commits: {sign: gitlab}}", r"line 1: consumer\.commits\.sign.*'key' or 'github'"),
        (f"consumer: {{{GITHUB_SIGNS}}}\ngitlab: {{personal_access_token: x}}", "signs no commits on gitlab"),
        (f"consumer: {{{GITHUB_SIGNS}}}\ntask_source: gitea", "signs no commits on gitea"),
        ("consumer: {commits: {sign: github, name: A, signing_key: k}}", "remove it, or use `sign: key`"),
        (f"consumer: {{{GITHUB_SIGNS}}}\nrounds: {{enabled: true}}", r"set rounds\.conflict_rounds to 0"),
    ],
)
def test_commits_that_github_cannot_sign_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"config\.yaml.*{sentence}"):
        load_settings(write(tmp_path, text), {})


def test_github_signs_with_rounds_that_resolve_no_conflicts(tmp_path: Path) -> None:
    text = f"consumer: {{{GITHUB_SIGNS}}}\nrounds: {{enabled: true, conflict_rounds: 0}}"
    assert load_settings(write(tmp_path, text), {}).consumer.commits.sign is Signing.GITHUB


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"budgets: {{task: {USD}, repository: {{tokens: 5}}}}", "budgets are given in USD and in tokens"),
        (f"budgets: {{repository: {USD}}}", "set `task` too"),
        (f"use_rabbitmq: true\nbudgets: {{task: {USD}, repository: {USD}}}", "queue.backend: kubernetes"),
        (
            f"queue: {{backend: kubernetes, engine: kueue}}\nbudgets: {{task: {USD}, namespace: {USD}}}",
            "queue.engine: native",
        ),
        ("budgets: {task: {amount: 5}}", "`amount` and `currency` together"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"config\.yaml.*{sentence}"):
        load_settings(write(tmp_path, text), {})


def test_tasks_of_one_machine_share_budgets(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, f"budgets: {{task: {USD}, repository: {USD}}}"), {})
    assert settings.backend is Backend.SQLITE
