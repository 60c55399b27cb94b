"""Compares the schema of AgentTask in a cluster with the one of this release. Pure.

The API server drops fields that its schema does not have and refuses values that the schema does not allow.
So under the schema of an older release, a program's writes are lost or refused although nothing is broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Schema = Mapping[str, Any]
"""An OpenAPI schema, as a CustomResourceDefinition contains it and as the API server publishes it."""

OPENAPI_PATH = "/openapi/v3/apis/coding-agent.dev/v1alpha1"
"""Where the API server publishes the schema. Unlike the CustomResourceDefinition, everybody may read it
(ClusterRole system:discovery)."""
_PUBLISHED = "dev.coding-agent.v1alpha1.AgentTask"
_SELECTABLE = "x-kubernetes-selectable-fields"
_RULES = "x-kubernetes-validations"
_AT_MOST = {
    "maxLength": "characters",
    "maxItems": "entries",
    "maxProperties": "keys",
    "maximum": "",
}
_AT_LEAST = {"minLength": "characters", "minItems": "entries", "minimum": ""}
_NOT_COMPARED = {"description", "default", "x-kubernetes-group-version-kind"}
"""Programs have the same defaults in their own types, so a default of the schema changes nothing for them."""
_SHOWN = 8


@dataclass(frozen=True)
class SchemaGap:
    """A difference between two schemas that makes the cluster lose, refuse or not check our writes.

    Attributes:
        field: the path of the field, such as `status.attempts[].reason`; empty for the whole object.
        text: what is different, without the field.
        missing: whether the field itself is missing.
        harmful: whether the API server drops or refuses what programs of this release write. A different
            rule is not harmful, because a later release may have more rules.
    """

    field: str
    text: str
    missing: bool = False
    harmful: bool = True

    def __str__(self) -> str:
        return f"{self.field or 'the object'} {self.text}"


@cache
def wanted_schema() -> Schema:
    """Return the schema of this release, which `python charts/schema.py` makes from crds/agenttask.yaml."""
    text = files(__package__).joinpath("agenttask_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def schema_of(version: Mapping[str, Any]) -> Schema:
    """Return the schema of one of the versions of a CustomResourceDefinition."""
    selectable = [{"fieldPath": one["jsonPath"].lstrip(".")} for one in version.get("selectableFields") or ()]
    return {**version["schema"]["openAPIV3Schema"], **({_SELECTABLE: selectable} if selectable else {})}


def published_schema(document: Mapping[str, Any]) -> Schema | None:
    """Return the schema in the answer to `OPENAPI_PATH`; `None` if it is not published yet."""
    found = (document.get("components") or {}).get("schemas", {}).get(_PUBLISHED)
    return None if found is None else dict(found)


def schema_gaps(installed: Schema, wanted: Schema | None = None) -> tuple[SchemaGap, ...]:
    """Return the gaps of the installed schema. Additions are not gaps, because a later release adds fields.

    Args:
        installed: the schema of the cluster.
        wanted: the schema that the programs need; `None` for the one of this release.
    """
    wanted = wanted_schema() if wanted is None else wanted
    ours, theirs = (
        {one["fieldPath"] for one in schema.get(_SELECTABLE) or ()} for schema in (wanted, installed)
    )
    selectors = [SchemaGap(field, "cannot be used to select tasks") for field in sorted(ours - theirs)]
    return (*selectors, *_gaps("", installed, wanted))


def describe_gaps(gaps: Iterable[SchemaGap]) -> str:
    """Return a phrase that names the first gaps and counts the others."""
    gaps = list(gaps)
    missing = [gap.field for gap in gaps if gap.missing]
    others = [str(gap) for gap in gaps if not gap.missing]
    parts = []
    if missing:
        parts.append(f"{_counted(len(missing), 'field')} missing ({_first(missing, ', ')})")
    if others:
        parts.append(_first(others, "; "))
    return "; ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"


def _first(texts: list[str], separator: str) -> str:
    rest = len(texts) - _SHOWN
    return separator.join(texts[:_SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")


def _gaps(field: str, installed: Schema, wanted: Schema) -> Iterator[SchemaGap]:
    for key in sorted({*installed, *wanted} - _NOT_COMPARED):
        present, needed = installed.get(key), wanted.get(key)
        if key == "properties":
            yield from _properties(field, present or {}, needed or {})
        elif (
            key in ("items", "additionalProperties")
            and isinstance(needed, dict)
            and isinstance(present, dict)
        ):
            yield from _gaps(field + ("[]" if key == "items" else ".*"), present, needed)
        elif key == _RULES:
            yield from _rules(field, present or (), needed or ())
        elif key == _SELECTABLE or (field == "metadata" and key in ("type", "allOf")):
            continue  # the API server publishes its own type for the metadata
        elif (text := _difference(key, present, needed)) is not None:
            yield SchemaGap(field, text)


def _properties(field: str, theirs: Mapping[str, Schema], ours: Mapping[str, Schema]) -> Iterator[SchemaGap]:
    for name, schema in ours.items():
        path = f"{field}.{name}" if field else name
        if name in theirs:
            yield from _gaps(path, theirs[name], schema)
        else:
            yield SchemaGap(path, "is missing", missing=True)


def _rules(
    field: str, theirs: Iterable[Mapping[str, str]], ours: Iterable[Mapping[str, str]]
) -> Iterator[SchemaGap]:
    """Yield the gaps in CEL rules. A changed rule is reported once, as missing, if it keeps its message."""
    there, wanted = (
        {rule["rule"]: rule.get("message", rule["rule"]) for rule in one} for one in (theirs, ours)
    )
    for expression in wanted.keys() - there.keys():
        yield SchemaGap(field, f"lacks the rule “{wanted[expression]}”", harmful=False)
    for expression in there.keys() - wanted.keys():
        if there[expression] not in wanted.values():
            yield SchemaGap(field, f"has another rule “{there[expression]}”", harmful=False)


def _difference(key: str, installed: Any, wanted: Any) -> str | None:
    """Return how a keyword of the installed schema is stricter than wanted; `None` if it is not stricter."""
    if key == "enum":
        lacking = (
            []
            if installed is None
            else sorted({str(one) for one in wanted or ()} - {str(one) for one in installed})
        )
        if wanted is None and installed is not None:
            return f"allows only {', '.join(map(str, installed))}"
        return f"does not allow {', '.join(lacking)}" if lacking else None
    if key == "required":
        added = sorted(set(installed or ()) - set(wanted or ()))
        return f"requires {', '.join(added)}" if added else None
    if key in _AT_MOST and installed is not None and (wanted is None or installed < wanted):
        return f"allows at most {installed} {_AT_MOST[key]}".rstrip() + (
            "" if wanted is None else f" instead of {wanted}"
        )
    if key in _AT_LEAST and installed is not None and (wanted is None or installed > wanted):
        return f"requires at least {installed} {_AT_LEAST[key]}".rstrip()
    if key in _AT_MOST or key in _AT_LEAST or installed == wanted:
        return None
    return f"has {key} {_shown(installed)} instead of {_shown(wanted)}"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
