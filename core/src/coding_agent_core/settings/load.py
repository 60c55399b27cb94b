"""Loads the settings from the defaults, `config.yaml` and the environment; the later source wins."""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.yaml_lines import Document, read

VARIABLES: dict[str, tuple[str, ...]] = {
    "TASK_SOURCE": ("task_source",),
    "GITHUB_API_URL": ("github", "api_url"),
    "GITHUB_PERSONAL_ACCESS_TOKEN": ("github", "personal_access_token"),
    "GITLAB_API_URL": ("gitlab", "api_url"),
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
        "RABBITMQ_PASSWORD",
        "USER_CONFIG_API_KEY",
    }
)
"""Each of these can also be given as the path of a file in `<NAME>_FILE`."""

_SERVICE_LINK = re.compile(r"tcp://[^/]*:(\d+)")
"""Kubernetes sets `RABBITMQ_PORT=tcp://10.0.0.1:5672` in pods beside a Service called `rabbitmq`."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        file: the file; `None`: the one that `CONFIG_FILE` names, else `config.yaml` in the current folder if
            there is one.
        environment: the variables; `None`: the process's own.

    Raises:
        SettingsError: a file that was named is absent or unreadable, or a setting is wrong or unknown; the
            message names each key with its line or variable.
    """
    environment = os.environ if environment is None else environment
    path = file or (Path(environment["CONFIG_FILE"]) if environment.get("CONFIG_FILE") else None)
    document = Document()
    name = str(path or "config.yaml")
    if path is not None or Path(name).exists():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{name}: cannot read the configuration file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{name}: the configuration file is not UTF-8") from error
        document = read(text, environment, name=name)
    try:
        from_environment, names = _from_environment(environment)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        return _sources(document.data, from_environment)()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error, document, names, name))) from error


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings that the environment sets, and the variable of each; empty variables do not count.

    Raises:
        ValueError: `DEBUG` is no boolean.
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
            value = _debug_level(value)
            if value is None:
                continue
        if name.endswith("_PORT") and (link := _SERVICE_LINK.fullmatch(value)):
            value = link.group(1)
        _put(data, path, value)
        names[path] = source
    return data, names


def _debug_level(value: str) -> str | None:
    if value.lower() in _TRUE:
        return "DEBUG"
    if value.lower() in _FALSE:
        return None
    raise ValueError(f"DEBUG: {value!r} is neither true nor false")


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def _sources(from_file: dict[str, Any], from_environment: dict[str, Any]) -> type[Settings]:
    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                InitSettingsSource(settings_cls, init_kwargs=from_environment),
                InitSettingsSource(settings_cls, init_kwargs=from_file),
            )

    _Loaded.__name__ = "Settings"
    return _Loaded


def _sentences(
    error: ValidationError, document: Document, names: Mapping[tuple[str, ...], str], file: str
) -> list[str]:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in detail["loc"] if part not in ("function-before", "list", "tuple"))
        key = ".".join(str(part) for part in path)
        variable = next((name for at, name in names.items() if at == path[: len(at)]), None)
        line = document.line(path)
        where = variable or (f"{file}, line {line}" if line else "defaults")
        text = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            text = "unknown setting" + _suggestion(path)
        sentences.append(f"{where}: {key}: {text}")
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
