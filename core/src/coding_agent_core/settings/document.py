"""Reads a YAML file with the line of each key, and expands variables in its values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from coding_agent_core.errors import SettingsError

KeyPath = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ABSENT = object()


@dataclass
class Document:
    """A file's data, the line (from 1) of each key or list entry, and each key that is given twice."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def line(self, path: KeyPath) -> int | None:
        """The line of the path, or of its nearest parent in the file."""
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


def read_yaml(text: str, environment: Mapping[str, str], *, name: str) -> Document:
    """Parse YAML and expand `${VAR}` and `${VAR:-default}`; `$$` is a dollar sign.

    A value that consists only of variables, all of them unset and without default, counts as not given, so
    that the setting's own default holds.

    Of a key that is given twice, the first value counts.

    Raises:
        SettingsError: not YAML, or no mapping at the top; names the line.
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


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
