"""The configuration reference: every key of the settings types with its type, default, variable, meaning."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import annotated_types
import yaml
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings
from coding_agent_core.settings.section import SecretSettings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NUMBERS = re.compile(r" \(requirement [A-Z]\d+\)")
_NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    Decimal: "decimal",
}


@dataclass(frozen=True)
class Key:
    """A setting. Its dotted `path` has `[]` after a list, and `.NAME` for the free keys of a mapping."""

    path: str
    type: str
    default: str
    variable: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """The settings of one section, without the sections below it."""

    path: str
    meaning: str
    keys: tuple[Key, ...]


def groups(model: type[BaseModel] = Settings, path: str = "") -> Iterator[Group]:
    """Yield the section itself, then the sections below it, in the order of the types."""
    meanings = attribute_docstrings(model)
    keys: list[Key] = []
    below: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        at = f"{path}.{_key(name, field)}".lstrip(".")
        section = _section(field.annotation)
        if section is not None and section[0] is Development:
            continue  # nobody's setting
        if section is None:
            keys.append(_row(at, field, meanings.get(name, "")))
            continue
        kind, suffix = section
        if suffix:
            keys.append(
                Key(f"`{at}`", "list" if suffix == "[]" else "mapping", "empty", "", meanings.get(name, ""))
            )
        below.append((kind, at + suffix))
    yield Group(path, _first(model.__doc__ or ""), tuple(keys))
    for kind, at in below:
        yield from groups(kind, at)


def with_forges_together(sections: list[Group]) -> list[Group]:
    """Return the sections, with the keys that all forges have alike once, in a section of their own."""
    forges = [section for section in sections if section.path in {platform.value for platform in Platform}]
    alike = [
        [replace(key, path=key.path.replace(f"`{section.path}.", "`FORGE.")) for key in section.keys]
        for section in forges
    ]
    common = [key for key in alike[0] if all(key in others for others in alike)]
    names = ", ".join(f"`{section.path}`" for section in forges)
    together = Group(
        "FORGE", f"What {names} have in common: write the forge's name for `FORGE`.", tuple(common)
    )
    own = {
        section.path: replace(
            section,
            keys=tuple(key for key, form in zip(section.keys, forms, strict=True) if form not in common),
        )
        for section, forms in zip(forges, alike, strict=True)
    }
    first = sections.index(forges[0])
    result = [own.get(section.path, section) for section in sections]
    return [*result[:first], together, *result[first:]]


def undocumented() -> list[str]:
    """Return the settings without a docstring, except sections of Kubernetes (`As in a …`)."""
    ours = [group for group in groups() if not group.meaning.startswith("As in a ")]
    return [key.path for group in ours for key in group.keys if not key.meaning]


def _key(name: str, field: FieldInfo) -> str:
    return field.validation_alias if isinstance(field.validation_alias, str) else name


def _section(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """Return the section type that an annotation stands for, and the suffix of its path."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if issubclass(annotation, SecretSettings) else (annotation, "")
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    suffix = {tuple: "[]", list: "[]", dict: ".NAME"}.get(origin, "") if origin else ""
    if origin is typing.Annotated:
        arguments = arguments[:1]
    for argument in arguments:
        inner = _section(argument)
        if inner is not None:
            return inner[0], suffix + inner[1]
    return None


def _row(path: str, field: FieldInfo, meaning: str) -> Key:
    kind = _type(field.annotation)
    limits = _limits(field)
    return Key(
        path=f"`{path}`",
        type=f"{kind} {limits}".strip(),
        default=_default(field),
        variable=_variable(path),
        meaning=_for_readers(meaning),
    )


def _type(annotation: Any) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]
    if annotation is type(None):
        return "none"
    if isinstance(annotation, type) and issubclass(annotation, SecretSettings):
        return "[secret](#secrets)"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    return "anything"


def _limits(field: FieldInfo) -> str:
    words = []
    # The bounds of `Interval | None`, and of the values in a mapping, belong to the inner type.
    kinds = [kind for kind in typing.get_args(field.annotation) if kind not in (type(None), str)]
    inner = getattr(kinds[0], "__metadata__", ()) if len(kinds) == 1 else ()
    found = [one for entry in inner if isinstance(entry, FieldInfo) for one in entry.metadata]
    for entry in (*field.metadata, *found):
        match entry:
            case annotated_types.Gt(gt=value):
                words.append(f"> {value}")
            case annotated_types.Ge(ge=value):
                words.append(f"≥ {value}")
            case annotated_types.Lt(lt=value):
                words.append(f"< {value}")
            case annotated_types.Le(le=value):
                words.append(f"≤ {value}")
    return ", ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = _plain(field.get_default(call_default_factory=True))
    if value is None or value == "":
        return "none"
    if value in ([], {}):
        return "empty"
    if isinstance(value, str):
        return f"`{value}`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _plain(value: Any) -> Any:
    match value:
        case SecretSettings():
            return None
        case BaseModel():
            return {name: _plain(entry) for name, entry in value.model_dump().items()}
        case Enum():
            return value.value
        case Path() | Decimal():
            return str(value)
        case bool():
            return value
        case float() if value.is_integer():
            return int(value)
        case tuple() | list() | frozenset():
            return [_plain(found) for found in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
    return value


def _variable(path: str) -> str:
    names = [name for name, at in VARIABLES.items() if ".".join(at) == path]
    return ", ".join(f"`{name}`" + (f", `{name}_FILE`" if name in SECRET_VARIABLES else "") for name in names)


def _for_readers(meaning: str) -> str:
    """YAML has no `None`."""
    return re.sub(r"(^|\. )`None`:", r"\1If not set:", meaning).replace("`None`:", "if not set:")


def _first(text: str) -> str:
    """Return the first paragraph, without what only readers of the code need."""
    return _NUMBERS.sub("", " ".join(text.split("\n\n", maxsplit=1)[0].split()))


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the docstrings of a class's attributes, including inherited ones, each on one line."""
    found: dict[str, str] = {}
    for entry in reversed(cls.__mro__):
        if entry.__module__.startswith("coding_agent_"):
            found.update(_own_docstrings(entry))
    return found


def _own_docstrings(cls: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except OSError:  # made of the sections in the folders of the forges
        return {}
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
