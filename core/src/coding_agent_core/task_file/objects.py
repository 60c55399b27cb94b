"""Objects in an SQLite file, with versions, selectors and watches as at the API server.

Every object is JSON with the metadata that the API server would give it. A change of the file is one
transaction that is on disk when the call returns, so a process that is killed at any moment leaves the file
as it was before or after a change, and never in between.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.kubernetes.transport import ApiError, Body
from coding_agent_core.task.agenttask import LABEL_ITEM

NAMESPACE = "default"
"""The namespace of all objects, because an AgentTask has one."""
_FORMAT = 1
_BUSY_S = 5.0
"""How long a write waits for that of another process, such as `main.py tasks cancel`."""
_POLL_S = 0.3
"""How often a watch looks for what another process has written."""
_REMEMBERED = 10_000
"""This many deleted objects are shown to watches that were not asked for a while."""
_EVENTS = 10_000
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS versions (last INTEGER NOT NULL);
INSERT INTO versions SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM versions);
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE INDEX IF NOT EXISTS changes ON objects (kind, version);
CREATE INDEX IF NOT EXISTS items ON objects (json_extract(body, '$.metadata.labels."{LABEL_ITEM}"'));
CREATE TABLE IF NOT EXISTS gone (version INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, uid TEXT NOT NULL, type TEXT NOT NULL,
    reason TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS about ON events (uid);
"""  # noqa: S608 - a constant


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Let only this process work on the tasks of a file during the `with` block.

    The kernel releases the lock however the process ends.

    Raises:
        CodingAgentError: another process works on them.
        SettingsError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("a")
    except OSError as error:
        raise SettingsError(
            f"context_storage.base_dir: the file of the tasks, {path}, cannot be written: {error.strerror}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CodingAgentError(
                f"another process works on the same tasks ({path}): stop it first, or set another "
                "context_storage.base_dir"
            ) from error
        yield


class ObjectFile:
    """The objects of all kinds in one SQLite file. Every method can raise `ApiError`.

    Example:
        objects = ObjectFile(Path("contexts/tasks.sqlite"))
        body = objects.create("AgentTask", manifest)
        objects.change("AgentTask", "issue-7", lambda body: {**body, "status": {}})
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._depth = 0
        self._watches: set[asyncio.Event] = set()
        with _errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Texts of private items are in it.
            path.touch(mode=0o600)
            self._file = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            # What was answered must be on disk: `NORMAL` could lose it when the machine loses power.
            self._file.execute("PRAGMA synchronous = FULL")
            [(stored,)] = self._file.execute("PRAGMA user_version")
            if stored not in (0, _FORMAT):
                raise SettingsError(
                    f"{path} was written by another release (format {stored}, this one reads {_FORMAT}): "
                    "start that release, or move the file away"
                )
            self._file.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the block, or none. Blocks can be nested."""
        with _errors():
            if self._depth == 0:
                self._file.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction and self._depth == 1:
                    self._file.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1
            if self._depth == 0:
                for changed in self._watches:
                    changed.set()

    def create(self, kind: str, manifest: Mapping[str, Any]) -> Body | None:
        """Create an object; `None` if its name is taken."""
        with self.transaction():
            name = manifest["metadata"]["name"]
            if self._read(kind, name) is not None:
                return None
            metadata = {
                **manifest["metadata"],
                "namespace": NAMESPACE,
                "uid": str(uuid.uuid4()),
                "generation": 1,
                "creationTimestamp": self.timestamp(),
            }
            return self._write(kind, {**manifest, "metadata": metadata})

    def get(self, kind: str, name: str) -> Body | None:
        with _errors():
            return self._read(kind, name)

    def list(self, kind: str, labels: str = "", fields: str = "") -> tuple[list[Body], int]:
        """Return the objects that the selectors match, ordered by name, and the version of the list."""
        where, values = _where(labels, fields)
        # One statement reads one state of the file, so the version is that of the list.
        objects = f"SELECT name, body FROM objects WHERE kind = ? AND {where} ORDER BY name"  # noqa: S608
        sql = f"SELECT (SELECT last FROM versions), NULL UNION ALL SELECT * FROM ({objects})"  # noqa: S608
        with _errors():
            (version, _), *found = self._file.execute(sql, (kind, *values)).fetchall()
        return [json.loads(body) for _, body in found], version

    def change(self, kind: str, name: str, edit: Callable[[Body], Body | None]) -> Body | None:
        """Replace an object by what `edit` returns for it.

        Args:
            edit: gets the stored object; returns the new one, or `None` to change nothing.

        Returns:
            The object as it is stored now; `None` if it is gone, or `edit` returned `None`.
        """
        with self.transaction():
            stored = self._read(kind, name)
            new = None if stored is None else edit(stored)
            if stored is None or new is None or new == stored:
                return new
            metadata = dict(new["metadata"])
            if new.get("spec") != stored.get("spec"):
                metadata["generation"] = metadata["generation"] + 1
            return self._write(kind, {**new, "metadata": metadata})

    def delete(self, kind: str, name: str, only: Callable[[Body], bool] = lambda _: True) -> bool:
        """Delete an object if it satisfies a condition; return whether it was deleted."""
        with self.transaction():
            stored = self._read(kind, name)
            if stored is None or not only(stored):
                return False
            version = self._next_version()
            stored["metadata"]["resourceVersion"] = str(version)
            self._file.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name))
            self._file.execute("INSERT INTO gone VALUES (?, ?, ?)", (version, kind, json.dumps(stored)))
            self._file.execute("DELETE FROM gone WHERE version <= ?", (version - _REMEMBERED,))
            return True

    async def watch(
        self, kind: str, labels: str, fields: str, after: int, seconds: float
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield `MODIFIED` or `DELETED` and the newest object for each object that changed after a version.

        A new object is `MODIFIED` too. An object that the two selectors do not both match is `DELETED`, even
        if they never matched it, because the file does not keep earlier labels.

        Args:
            seconds: how long to watch.
        """
        clock = asyncio.get_running_loop().time
        end, changed = clock() + seconds, asyncio.Event()
        where, values = _where(labels, fields)
        sql = (
            f"SELECT version, {where}, body FROM objects WHERE kind = ? AND version > ? "  # noqa: S608
            "UNION ALL SELECT version, 0, body FROM gone WHERE kind = ? AND version > ? ORDER BY version"
        )
        self._watches.add(changed)
        try:
            while (left := end - clock()) > 0:
                changed.clear()
                with _errors():
                    found = self._file.execute(sql, (*values, kind, after, kind, after)).fetchall()
                for version, matches, body in found:
                    after = version
                    yield ("MODIFIED" if matches else "DELETED"), json.loads(body)
                try:
                    async with asyncio.timeout(min(_POLL_S, left)):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._watches.discard(changed)

    def record_event(self, uid: str, kind: str, reason: str, message: str) -> None:
        """Record an Event about an object; the oldest ones are dropped."""
        with self.transaction():
            values = (self.timestamp(), uid, kind, reason, message)
            self._file.execute(
                "INSERT INTO events (at, uid, type, reason, message) VALUES (?, ?, ?, ?, ?)", values
            )
            self._file.execute("DELETE FROM events WHERE number <= last_insert_rowid() - ?", (_EVENTS,))

    def events(self, uid: str) -> Sequence[tuple[str, str, str, str]]:
        """Return time, type, reason and message of the Events about an object; the newest is last."""
        with _errors():
            sql = "SELECT at, type, reason, message FROM events WHERE uid = ? ORDER BY number"
            return self._file.execute(sql, (uid,)).fetchall()

    def timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _read(self, kind: str, name: str) -> Body | None:
        sql = "SELECT body FROM objects WHERE kind = ? AND name = ?"
        row = self._file.execute(sql, (kind, name)).fetchone()
        return None if row is None else json.loads(row[0])

    def _write(self, kind: str, body: Body) -> Body:
        version = self._next_version()
        body["metadata"]["resourceVersion"] = str(version)
        row = (kind, body["metadata"]["name"], version, json.dumps(body))
        self._file.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)
        return body

    def _next_version(self) -> int:
        [(version,)] = self._file.execute("UPDATE versions SET last = last + 1 RETURNING last").fetchall()
        return int(version)


@contextmanager
def _errors(path: Path | None = None) -> Iterator[None]:
    """Raise errors of the file as `ApiError` without a status; of its first use as `SettingsError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if path is not None:
            raise SettingsError(
                f"context_storage.base_dir: the file of the tasks, {path}, cannot be used: {error}"
            ) from error
        raise ApiError(f"the file of the tasks cannot be used: {error}", None) from error


_REQUIREMENT = re.compile(r"\s*([^!=\s]+)\s*(?:(!?=)\s*([^,]*)|in\s*\(([^)]*)\))\s*(?:,|$)")


def _where(labels: str, fields: str) -> tuple[str, list[str]]:
    """Return the SQL condition of a label selector and a field selector, and its values."""
    conditions, values = ["1"], []
    for selector, folder in ((labels, '$.metadata.labels."{}"'), (fields, "$.{}")):
        for key, operator, value, several in _REQUIREMENT.findall(selector):
            # The index of items has this same expression. Keys come from this program and not from people.
            stored = f"json_extract(body, '{folder.format(key)}')"
            given = [one.strip() for one in several.split(",")] if several else [value.strip()]
            if operator == "!=" or "" in given:
                # As at the API server, what is absent differs from every value but the empty one.
                stored = f"coalesce({stored}, '')"
            negation = "NOT " if operator == "!=" else ""
            conditions.append(f"{stored} {negation}IN ({', '.join('?' * len(given))})")
            values += given
    return " AND ".join(conditions), values
