"""What the watches have shown, and what the operator's own requests were answered: the newest of both.

A version never replaces a newer one (resourceVersions of one resource are ordered,
https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions), so it does not matter in
which order events, lists and answers arrive. Memory grows with what is active.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from coding_agent_operator.observed import UnreadableTaskError

_logger = logging.getLogger("operator.store")
_NEVER = 2**63
_GONE = 4096
"""Deleted objects that are remembered, so that an answer that comes late does not bring one back."""


class _Versioned(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> str: ...


_T = TypeVar("_T", bound=_Versioned)


@dataclass(frozen=True)
class Missed:
    """A version of an object that a list has and that no watch has shown yet."""

    uid: str
    version: int


class Shelf(Generic[_T]):
    """The active objects of one resource, by name."""

    def __init__(self, read: Callable[[Mapping[str, Any]], _T]) -> None:
        self._read = read
        self._objects: dict[str, _T] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._watched: dict[str, int] = {}

    def __iter__(self) -> Iterator[_T]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, name: str) -> _T | None:
        """The object of that name."""
        return self._objects.get(name)

    def put(self, body: Mapping[str, Any]) -> _T | None:
        """Take an answer of the API server; returns the object if it was news."""
        meta, version = body["metadata"], _version(body)
        known = self._objects.get(meta["name"])
        if version <= self._gone.get(meta["uid"], -1):
            return None
        if known is not None and int(known.version) >= version:
            return None
        try:
            found = self._read(body)
        except UnreadableTaskError as error:
            _logger.warning("%s", error)
            return None
        self._objects[found.name] = found
        return found

    def watched(self, body: Mapping[str, Any]) -> _T | None:
        """Take a watch event of an object that is there; returns the object if it was news."""
        self._watched[body["metadata"]["uid"]] = _version(body)
        return self.put(body)

    def gone(self, name: str, uid: str, version: int | None = None) -> bool:
        """The object has gone, or is no longer active, with the version given; whether it was known.

        What is older than that is not taken any more.
        """
        self._watched.pop(uid, None)
        self._gone[uid] = max(self._gone.get(uid, -1), _NEVER if version is None else version)
        while len(self._gone) > _GONE:
            self._gone.popitem(last=False)
        known = self._objects.get(name)
        if known is None or known.uid != uid or int(known.version) > self._gone.get(uid, _NEVER):
            return False
        del self._objects[name]
        return True

    def unwatched(self, body: Mapping[str, Any]) -> bool:
        """Take a watch event (or an answer) that tells that the object is gone or no longer selected."""
        return self.gone(body["metadata"]["name"], body["metadata"]["uid"], _version(body))

    def replace(self, bodies: Iterable[Mapping[str, Any]], version: int) -> tuple[set[str], set[Missed]]:
        """Take a consistent list: what is not in it is gone, unless it is newer than the list.

        Returns:
            The names of which something is new, and the versions that no watch has shown yet.
        """
        changed: set[str] = set()
        missed: set[Missed] = set()
        listed: set[str] = set()
        for body in bodies:
            meta = body["metadata"]
            listed.add(meta["uid"])
            if self.put(body) is not None:
                changed.add(meta["name"])
            if self._watched.get(meta["uid"], -1) < _version(body):
                missed.add(Missed(meta["uid"], _version(body)))
        for known in list(self._objects.values()):
            if known.uid not in listed and int(known.version) <= version:
                del self._objects[known.name]
                changed.add(known.name)
        alive = {known.uid for known in self._objects.values()}
        self._watched = {uid: seen for uid, seen in self._watched.items() if uid in alive}
        return changed, missed

    def still_missed(self, missed: Iterable[Missed]) -> set[Missed]:
        """Those that no watch has shown meanwhile, of objects that are still there."""
        alive = {known.uid for known in self._objects.values()}
        return {m for m in missed if m.uid in alive and self._watched.get(m.uid, -1) < m.version}


def _version(body: Mapping[str, Any]) -> int:
    return int(body["metadata"]["resourceVersion"])
