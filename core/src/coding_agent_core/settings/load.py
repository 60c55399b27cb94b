"""Loads the settings from the defaults, `config.yaml` and the environment; the later source wins."""

from __future__ import annotations

import difflib
import logging
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.document import Document, dotted, read_yaml
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.predecessor import ignored_variables, translate

_logger = logging.getLogger("coding_agent.settings")

VARIABLES: dict[str, tuple[str, ...]] = {
    "TASK_SOURCE": ("task_source",),
    "GITHUB_API_URL": ("github", "api_url"),
    "GITHUB_BOT_NAME": ("github", "assignee"),
    "GITHUB_PERSONAL_ACCESS_TOKEN": ("github", "personal_access_token"),
    "GITLAB_API_URL": ("gitlab", "api_url"),
    "GITLAB_BOT_NAME": ("gitlab", "assignee"),
    "GITLAB_PERSONAL_ACCESS_TOKEN": ("gitlab", "personal_access_token"),
    "WEBHOOK_ENABLED": ("webhook", "enabled"),
    "WEBHOOK_SERVER_HOST": ("webhook", "server", "host"),
    "WEBHOOK_SERVER_PORT": ("webhook", "server", "port"),
    "GITHUB_WEBHOOK_SECRET": ("webhook", "github", "secret"),
    "GITLAB_WEBHOOK_TOKEN": ("webhook", "gitlab", "token"),
    "LLM_PROVIDER": ("llm", "provider"),
    "OPENAI_API_KEY": ("llm", "openai", "api_key"),
    "OPENAI_BASE_URL": ("llm", "openai", "base_url"),
    "OPENAI_MODEL": ("llm", "openai", "model"),
    "ANTHROPIC_API_KEY": ("llm", "anthropic", "api_key"),
    "ANTHROPIC_BASE_URL": ("llm", "anthropic", "base_url"),
    "ANTHROPIC_MODEL": ("llm", "anthropic", "model"),
    "GEMINI_API_KEY": ("llm", "google", "api_key"),
    "GOOGLE_GEMINI_BASE_URL": ("llm", "google", "base_url"),
    "GEMINI_MODEL": ("llm", "google", "model"),
    "OLLAMA_ENDPOINT": ("llm", "ollama", "endpoint"),
    "OLLAMA_MODEL": ("llm", "ollama", "model"),
    "LMSTUDIO_BASE_URL": ("llm", "lmstudio", "base_url"),
    "LMSTUDIO_MODEL": ("llm", "lmstudio", "model"),
    "USE_RABBITMQ": ("use_rabbitmq",),
    "QUEUE_BACKEND": ("queue", "backend"),
    "RABBITMQ_HOST": ("rabbitmq", "host"),
    "RABBITMQ_PORT": ("rabbitmq", "port"),
    "RABBITMQ_USER": ("rabbitmq", "user"),
    "RABBITMQ_PASSWORD": ("rabbitmq", "password"),
    "RABBITMQ_QUEUE": ("rabbitmq", "queue"),
    "USE_USER_CONFIG_API": ("user_config_api", "enabled"),
    "USER_CONFIG_API_URL": ("user_config_api", "url"),
    "USER_CONFIG_API_KEY": ("user_config_api", "api_key"),
    "EGRESS_PROXY": ("egress", "proxy"),
    "EGRESS_KEY": ("egress", "key"),
    "WORKSPACE_SOCKET": ("consumer", "workspace", "socket"),
    "LOGS": ("logging", "file"),
    "LOG_FORMAT": ("logging", "format"),
    "DEBUG": ("logging", "level"),
}

SECRET_VARIABLES = frozenset(
    {
        "GITHUB_PERSONAL_ACCESS_TOKEN",
        "GITLAB_PERSONAL_ACCESS_TOKEN",
        "GITHUB_WEBHOOK_SECRET",
        "GITLAB_WEBHOOK_TOKEN",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "RABBITMQ_PASSWORD",
        "USER_CONFIG_API_KEY",
        "EGRESS_KEY",
    }
)
"""Each of these can also be given as the path of a file in `<NAME>_FILE`."""

_SERVICE_LINK = re.compile(r"tcp://[^/]*:(\d+)")
"""Kubernetes sets `RABBITMQ_PORT=tcp://10.0.0.1:5672` in pods where a Service is called `rabbitmq`."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Findings:
    """What is in the file and the environment.

    Attributes:
        source: the file's name, or `defaults`.
        settings: `None` if there are errors.
        errors: sentences that name each wrong setting with its line or variable.
        warnings: sentences about keys and variables of the polling agent that are replaced or ignored.
    """

    source: str
    settings: Settings | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def require(self) -> Settings:
        """
        Raises:
            SettingsError: there are errors; the message has all of them.
        """
        if self.settings is None:
            raise SettingsError("\n".join(self.errors))
        return self.settings

    def log(self) -> None:
        """Log the warnings."""
        for warning in self.warnings:
            _logger.warning("%s", warning)


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings; the arguments are those of `examine`.

    Raises:
        SettingsError: a file that was named is absent or unreadable, or a setting is wrong or unknown; the
            message names each key with its line or variable.
    """
    return examine(file, environment).require()


def examine(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Findings:
    """Read the settings and everything that is wrong or has no effect.

    Args:
        file: the file; `None`: the one that `CONFIG_FILE` names, else `config.yaml` in the current folder if
            there is one.
        environment: the variables; `None`: the process's own.
    """
    environment = os.environ if environment is None else environment
    named = str(file or environment.get("CONFIG_FILE") or "")
    name = named or "config.yaml"
    document, source = Document(), "defaults"
    if named or Path(name).exists():
        source = name
        try:
            document = read_yaml(_text(name), environment, name=name)
        except SettingsError as error:
            return Findings(source, None, (str(error),))
    warnings = [f"{name}, line {line}: {sentence}" for line, sentence in translate(document, environment)]
    warnings += ignored_variables(environment)
    errors = list(document.problems)
    from_environment, names = _from_environment(environment, errors)
    settings = None
    try:
        settings = Settings.model_validate(_merged(document.data, from_environment))
    except ValidationError as error:
        errors += _sentences(error, document, names, name)
    return Findings(source, None if errors else settings, tuple(errors), tuple(warnings))


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{name}: cannot read the configuration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: the configuration file is not UTF-8") from error


def _from_environment(
    environment: Mapping[str, str], errors: list[str]
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings that the environment sets, and the variable of each; empty variables do not count.

    Args:
        errors: receives a sentence about a variable that cannot be read.
    """
    data: dict[str, Any] = {}
    names: dict[tuple[str, ...], str] = {}
    for name, path in VARIABLES.items():
        value: Any = environment.get(name, "")
        source = name
        if name in SECRET_VARIABLES and environment.get(f"{name}_FILE"):
            source = f"{name}_FILE"
            value = {"values": [value] if value else [], "files": [environment[source]]}
        if value == "":
            continue
        if name == "DEBUG":
            if value.lower() not in _TRUE | _FALSE:
                errors.append(f"DEBUG: {value!r} is neither true nor false")
            if value.lower() not in _TRUE:
                continue
            value = "DEBUG"
        if name.endswith("_PORT") and (link := _SERVICE_LINK.fullmatch(value)):
            value = link.group(1)
        section = data
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = value
        names[path] = source
    return data, names


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _sentences(
    error: ValidationError, document: Document, names: Mapping[tuple[str, ...], str], file: str
) -> list[str]:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in detail["loc"] if part not in ("function-before", "list", "tuple"))
        key = dotted(path)
        variable = next((name for at, name in names.items() if at == path[: len(at)]), None)
        line = document.line(path)
        where = variable or (f"{file}, line {line}" if line else "defaults" if path else file)
        text = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            text = "unknown setting" + _suggestion(path)
        sentences.append(f"{where}: {key}: {text}" if path else f"{where}: {text}")
    return sentences


def _suggestion(path: tuple[str | int, ...]) -> str:
    model: Any = Settings
    for part in path[:-1]:
        model = _field_model(model, part)
        if model is None:
            return ""
    close = difflib.get_close_matches(str(path[-1]), model.model_fields, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(model.model_fields)}"


def _field_model(model: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return model
    field = model.model_fields.get(part)
    candidates = [field.annotation, *typing.get_args(field.annotation)] if field else []
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
