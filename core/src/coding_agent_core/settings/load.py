"""Loads the settings from the defaults, `config.yaml` and the environment; the later source wins."""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Settings

KeyPath = tuple[str | int, ...]

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

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ABSENT = object()
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
    named = str(file or environment.get("CONFIG_FILE") or "")
    document = Document()
    name = named or "config.yaml"
    if named or Path(name).exists():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{name}: cannot read the configuration file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{name}: the configuration file is not UTF-8") from error
        document = read_yaml(text, environment, name=name)
    from_environment, names = _from_environment(environment)
    try:
        return Settings.model_validate(_merged(document.data, from_environment))
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error, document, names, name))) from error


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings that the environment sets, and the variable of each; empty variables do not count.

    Raises:
        SettingsError: `DEBUG` is not a boolean.
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
            if value.lower() in _FALSE:
                continue
            if value.lower() not in _TRUE:
                raise SettingsError(f"DEBUG: {value!r} is neither true nor false")
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


@dataclass
class Document:
    """A file's data, and the line (from 1) of each key or list entry."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """The line of the path, or of its nearest parent in the file."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def read_yaml(text: str, environment: Mapping[str, str], *, name: str) -> Document:
    """Parse YAML and expand `${VAR}` and `${VAR:-default}`; `$$` is a dollar sign.

    A value that is nothing but variables, all of them unset and without default, counts as not given, so
    that the setting's own default holds.

    Raises:
        SettingsError: not YAML, a key twice in one mapping, or no mapping at the top; names the line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SettingsError(
            f"{name}, line {line}: not valid YAML: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not valid YAML: {error}") from error
    document = Document()
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{name}, line 1: the file must hold a mapping of sections")
    document.data = _build(node, (), document.lines, environment, name)
    return document


def _build(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], environment: Mapping[str, str], name: str
) -> Any:
    if path:
        lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in result:
                raise SettingsError(f"{name}, line {line}: {_dotted((*path, key))} is given twice")
            lines[(*path, key)] = line
            value = _build(value_node, (*path, key), lines, environment, name)
            if value is not _ABSENT:
                result[key] = value
        return result
    if isinstance(node, yaml.SequenceNode):
        entries = (_build(n, (*path, i), lines, environment, name) for i, n in enumerate(node.value))
        return [entry for entry in entries if entry is not _ABSENT]
    if node.tag == "tag:yaml.org,2002:str":
        return _expand(node.value, environment)
    return yaml.safe_load(yaml.serialize(node))


def _expand(text: str, environment: Mapping[str, str]) -> Any:
    missing = found = False

    def replace(match: re.Match[str]) -> str:
        nonlocal missing, found
        if match.group() == "$$":
            found = True
            return "$"
        value = environment.get(match["name"]) or match["default"]
        if value is None:
            missing = True
            return ""
        found = True
        return value

    expanded = _VARIABLE.sub(replace, text)
    return _ABSENT if missing and not found and not expanded else expanded


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
