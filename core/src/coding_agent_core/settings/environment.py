"""Which environment variable stands for which setting (requirement S17); they win over the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
"""Each of these may also be given as a file's path in `<NAME>_FILE`, as container platforms mount secrets."""

_SERVICE_LINK = re.compile(r"tcp://[^/]*:(\d+)")
"""Kubernetes sets `RABBITMQ_PORT=tcp://10.0.0.1:5672` in pods beside a Service called `rabbitmq`."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def tree(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings that the environment gives, and which variable gave each; empty variables do not count.

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
