"""Loads the settings from the defaults, `config.yaml` and the environment; later sources win.

Each error names the key with the line in the file, or the variable.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings
from coding_agent_core.settings.predecessor import KeyPath, Translation, ignored_variables
from coding_agent_core.text import problem_of

_logger = logging.getLogger("coding_agent.settings")

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ABSENT = object()
_SERVICE_LINK = re.compile(r"tcp://[^/]*:(\d+)")
"""Matches Kubernetes' value of `RABBITMQ_PORT` in pods if a Service is called `rabbitmq`:
`tcp://10.0.0.1:5672`."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Findings:
    """The result of reading the file and the environment.

    Attributes:
        source: the file's name, or `defaults`.
        settings: the settings; `None` if there are errors.
        errors: sentences that name each wrong setting with its line or variable.
        warnings: sentences about keys and variables of the polling agent that are replaced or ignored.
    """

    source: str
    settings: Settings | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def require(self) -> Settings:
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


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings; the arguments are those of `examine`.

    Raises:
        SettingsError: a named file is absent or unreadable, or a setting is wrong or unknown. The message
            names each key with its line or variable.
    """
    return examine(file, environment).require()


def examine(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Findings:
    """Read the settings, and find everything that is wrong or has no effect.

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
    translation = Translation(document.data, environment)
    notices = [(document.line(path) or 0, _dotted(path), text) for path, text in translation.notices]
    warnings = [
        f"{name}, line {line}: {key}: {text}" for line, key, text in sorted(notices, key=itemgetter(0))
    ]
    if translation.kept_servers is not None:
        document.keep_entries("mcp_servers", translation.kept_servers)
    warnings += ignored_variables(environment)
    errors = list(document.problems)
    from_environment, names = _from_environment(environment, errors)
    settings = None
    try:
        settings = Settings.model_validate(_merged(document.data, from_environment))
    except ValidationError as error:
        errors += _sentences(error, document, names, name)
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
                document.problems.append(f"{name}, line {line}: {_dotted((*path, key))} is given twice")
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
    environment: Mapping[str, str], errors: list[str]
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the settings that the environment sets, and the variable of each. Empty variables do not count.

    Args:
        errors: receives a sentence about each variable that cannot be read.
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
        key = _dotted(path)
        variable = next((name for at, name in names.items() if at == path[: len(at)]), None)
        line = document.line(path)
        where = variable or (f"{file}, line {line}" if line else "defaults" if path else file)
        text = problem_of(detail)
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


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
