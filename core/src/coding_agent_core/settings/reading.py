"""Reads settings from the defaults, a file and the environment; later sources win.

Each error names the key with the line in the file, or the variable. A program that needs a few sections reads
only these: its model ignores the other keys of the file, which other programs check.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.text import problem_of
from coding_agent_core.settings.section import Section

_logger = logging.getLogger("coding_agent.settings")
_Model = TypeVar("_Model", bound=BaseModel)

KeyPath = tuple[str | int, ...]
"""The keys, and the indices of list entries, on the way to a value."""
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ABSENT = object()
_SERVICE_LINK = re.compile(r"tcp://[^/]*:(\d+)")
"""Matches Kubernetes' value of `RABBITMQ_PORT` in pods if a Service is called `rabbitmq`:
`tcp://10.0.0.1:5672`."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

LOGGING_VARIABLES: dict[str, tuple[str, ...]] = {
    "LOGS": ("logging", "file"),
    "LOG_FORMAT": ("logging", "format"),
    "DEBUG": ("logging", "level"),
}
COMMON_VARIABLES: dict[str, tuple[str, ...]] = {
    "WEBHOOK_ENABLED": ("webhook", "enabled"),
    "WEBHOOK_SERVER_HOST": ("webhook", "server", "host"),
    "WEBHOOK_SERVER_PORT": ("webhook", "server", "port"),
    "COMMENT_KEY": ("comment_key",),
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
    **LOGGING_VARIABLES,
}
"""The setting that each environment variable sets, without those of the forges."""
COMMON_SECRETS = frozenset(
    {
        "COMMENT_KEY",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "RABBITMQ_PASSWORD",
        "USER_CONFIG_API_KEY",
        "EGRESS_KEY",
    }
)
"""Variables of these that can also be given as the path of a file in `<NAME>_FILE`."""


class Logging(Section):
    """Logs."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or JSON objects for log collectors."""
    file: Path | None = None
    """File to which the log is also written."""


@dataclass(frozen=True)
class Variables:
    """Environment variables that set settings.

    Attributes:
        paths: the setting of each variable.
        secrets: the variables that can also be given as the path of a file in `<NAME>_FILE`.
    """

    paths: Mapping[str, tuple[str, ...]]
    secrets: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class Findings(Generic[_Model]):
    """The result of reading the file and the environment.

    Attributes:
        source: the file's name, or `defaults`.
        settings: the settings; `None` if there are errors.
        errors: sentences that name each wrong setting with its line or variable.
        warnings: sentences about keys and variables of the polling agent that are replaced or ignored.
    """

    source: str
    settings: _Model | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def require(self) -> _Model:
        """Return the settings.

        Raises:
            SettingsError: there are errors; the message contains all of them.
        """
        if self.settings is None:
            raise SettingsError("\n".join(self.errors))
        return self.settings

    def log(self) -> None:
        """Log the warnings."""
        for warning in self.warnings:
            _logger.warning("%s", warning)


Translate = Callable[["Document", Mapping[str, str], str], list[str]]
"""Replaces old keys of a document, given the environment and the file's name, and returns warnings."""


def read_settings(
    model: type[_Model],
    variables: Variables,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    translate: Translate = lambda document, environment, name: [],
) -> Findings[_Model]:
    """Read the settings of a model, and find everything that is wrong or has no effect.

    Args:
        file: the file; `None` for the file that `CONFIG_FILE` names, or otherwise for `config.yaml` in the
            current folder, if there is one.
        environment: the variables; `None` for those of the process.
    """
    environment = os.environ if environment is None else environment
    named = str(file or environment.get("CONFIG_FILE") or "")
    name = named or "config.yaml"
    document, source = Document(), "defaults"
    if named or Path(name).exists():
        source = name
        try:
            document = _read_yaml(_text(name), environment, name=name)
        except SettingsError as error:
            return Findings(source, None, (str(error),))
    warnings = translate(document, environment, name)
    errors = list(document.problems)
    from_environment, names = _from_environment(variables, environment, errors)
    settings = None
    try:
        settings = model.model_validate(_merged(document.data, from_environment))
    except ValidationError as error:
        errors += _sentences(model, error, document, names, name)
    return Findings(source, None if errors else settings, tuple(errors), tuple(warnings))


@dataclass
class Document:
    """A file's data, the line (from 1) of each key and list entry, and a sentence for each repeated key."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def line(self, path: KeyPath) -> int | None:
        """Return the line of the path, or of its nearest parent in the file."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None

    def keep_entries(self, key: str, kept: Sequence[int]) -> None:
        """Renumber the lines of a list's entries after others were removed from its data."""
        numbers: dict[str | int, int] = {old: new for new, old in enumerate(kept)}
        lines: dict[KeyPath, int] = {}
        for path, line in self.lines.items():
            if path[0] != key or len(path) == 1:
                lines[path] = line
            elif path[1] in numbers:
                lines[key, numbers[path[1]], *path[2:]] = line
        self.lines = lines


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{name}: cannot read the configuration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: the configuration file is not UTF-8") from error


def _read_yaml(text: str, environment: Mapping[str, str], *, name: str) -> Document:
    """Parse YAML and expand `${VAR}` and `${VAR:-default}`; `$$` is a dollar sign.

    A value that consists only of variables, all of them unset and without default, counts as not given, so
    that the setting's own default applies. If a key is given twice, the first value counts.

    Raises:
        SettingsError: the text is not YAML or has no mapping at the top; the message names the line.
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
        raise SettingsError(f"{name}, line 1: the file must contain a mapping of sections")
    document.data = _build(node, (), document, environment, name)
    return document


def _build(
    node: yaml.Node, path: KeyPath, document: Document, environment: Mapping[str, str], name: str
) -> Any:
    if path:
        document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in result:
                document.problems.append(f"{name}, line {line}: {dotted((*path, key))} is given twice")
                continue
            document.lines[(*path, key)] = line
            value = _build(value_node, (*path, key), document, environment, name)
            if value is not _ABSENT:
                result[key] = value
        return result
    if isinstance(node, yaml.SequenceNode):
        entries = (_build(n, (*path, i), document, environment, name) for i, n in enumerate(node.value))
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


def _from_environment(
    variables: Variables, environment: Mapping[str, str], errors: list[str]
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the settings that the environment sets, and the variable of each. Empty variables do not count.

    Args:
        errors: receives a sentence about each variable that cannot be read.
    """
    data: dict[str, Any] = {}
    names: dict[tuple[str, ...], str] = {}
    for name, path in variables.paths.items():
        value: Any = environment.get(name, "")
        source = name
        if name in variables.secrets and environment.get(f"{name}_FILE"):
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
    model: type[BaseModel],
    error: ValidationError,
    document: Document,
    names: Mapping[tuple[str, ...], str],
    file: str,
) -> list[str]:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in detail["loc"] if part not in ("function-before", "list", "tuple"))
        key = dotted(path)
        variable = next((name for at, name in names.items() if at == path[: len(at)]), None)
        line = document.line(path)
        where = variable or (f"{file}, line {line}" if line else "defaults" if path else file)
        text = problem_of(detail)
        if detail["type"] == "extra_forbidden":
            text = _moved(key) or "unknown setting" + _suggestion(model, path)
        sentences.append(f"{where}: {key}: {text}" if path else f"{where}: {text}")
    return sentences


def _moved(key: str) -> str:
    """Return what became of a setting, and what to write instead; empty if it never was one."""
    from coding_agent_core.settings.moved import (  # noqa: PLC0415 - a long table, for an error alone
        MOVED,
        Moved,
        Removed,
    )

    match MOVED.get(key):
        case Removed(now):
            return f"this setting was removed: {now}"
        case Moved(instead):
            return f"this setting moved; write instead: {instead}"
        case None:
            return ""


def _suggestion(model: Any, path: KeyPath) -> str:
    for part in path[:-1]:
        model = _field_model(model, part)
        if model is None:
            return ""
    known = _fields(model)
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known settings here: {', '.join(known)}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields by the names that they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _field_model(model: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return model
    field = _fields(model).get(part)
    candidates = [field.annotation, *typing.get_args(field.annotation)] if field else []
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
