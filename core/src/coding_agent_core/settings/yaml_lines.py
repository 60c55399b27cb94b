"""YAML that keeps line numbers, and the expansion of `${VAR}` in values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from coding_agent_core.errors import SettingsError

Path = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ABSENT = object()


@dataclass
class Document:
    """A file's data, and the line (from 1) of each key or list entry."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of the path, or of its nearest parent in the file."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def read(text: str, environment: Mapping[str, str], *, name: str) -> Document:
    """Parse YAML and expand `${VAR}` and `${VAR:-default}`; `$$` is a dollar sign.

    A value that is nothing but variables, all of them unset and without default, counts as not given, so
    that the setting's own default holds.

    Args:
        text: the file's contents.
        environment: the variables.
        name: the file's name, for messages.

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
    node: yaml.Node, path: Path, lines: dict[Path, int], environment: Mapping[str, str], name: str
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


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)
