"""The parts that every object of the API server has, whatever its kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from coding_agent_core.task.model import parse_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Metadata(NamedTuple):
    """The metadata of a stored object.

    Attributes:
        version: the object's resourceVersion.
        deleted_at: when the grace period is over, if the object is being deleted.
    """

    name: str
    namespace: str
    uid: str
    version: str
    generation: int
    created: datetime
    deleted_at: datetime | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @staticmethod
    def of(body: Mapping[str, Any]) -> Metadata:
        get = body["metadata"].get
        return Metadata(
            get("name") or "",
            get("namespace") or "",
            get("uid") or "",
            get("resourceVersion") or "",
            get("generation") or 1,
            time_of(get("creationTimestamp")),
            time_of(at) if (at := get("deletionTimestamp")) else None,
            get("labels") or {},
            get("annotations") or {},
        )

    @property
    def deleting(self) -> bool:
        """Whether the object is being deleted. It may stay until its pods or its dependents are gone."""
        return self.deleted_at is not None


def controller_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the reference to the owner that controls an object; empty if there is none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def manager_of(body: Mapping[str, Any], field: str) -> str:
    """Return the field manager that set a field of an object's spec; empty if it is not known."""
    for entry in body["metadata"].get("managedFields") or ():
        if f"f:{field}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            return str(entry.get("manager", ""))
    return ""


class Stored(Protocol):
    """An object that the API server stores, as an object cache and Events name it."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> str: ...


def time_of(value: object) -> datetime:
    """Parse a time of the API server. Return 1970-01-01 if there is none."""
    return parse_time(value) or _EPOCH
