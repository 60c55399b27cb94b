"""How `wait` and `--watch` follow tasks when a watch ends, expires or breaks."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import urllib3
from kubectl_agenttask import UnreachableError, cluster_client
from kubectl_agenttask.cluster_client import ClusterAccess
from kubernetes.client.exceptions import ApiException

Body = dict[str, Any]


def task(name: str, version: int = 1) -> Body:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}, "spec": {}}


def event(kind: str, body: Body) -> Body:
    return {"type": kind, "object": body}


class ScriptEndedError(Exception):
    """The test has seen what it wanted to see."""


class FakeServer:
    """Answers each list and each watch with the next entry of a script; an entry can be an error."""

    def __init__(self, *rounds: tuple[list[Body] | Exception, list[Body | Exception]]) -> None:
        self._rounds = iter(rounds)
        self._events: list[Body | Exception] = []
        self.asked: list[dict[str, Any]] = []

    def list_namespaced_custom_object(self, *_: str, **__: Any) -> Body:
        found, self._events = next(self._rounds, (ScriptEndedError(), []))
        if isinstance(found, Exception):
            raise found
        return {"metadata": {"resourceVersion": "7"}, "items": found}

    def stream(self, *_: Any, **options: Any) -> Iterator[Body]:
        self.asked.append(options)
        for one in self._events:
            if isinstance(one, Exception):
                raise one
            yield one


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Follow the tasks of a fake server until its script ends."""
    monkeypatch.setattr("time.sleep", lambda _: None)

    def follow(server: FakeServer) -> list[tuple[str, str, bool]]:
        access = ClusterAccess(None, "team")
        access._tasks = server
        monkeypatch.setattr(cluster_client, "Watch", lambda: server)
        seen: list[tuple[str, str, bool]] = []
        with suppress(ScriptEndedError):
            for one, there in access.changes(everywhere=False, selector="", seconds=60):
                seen.append((one.name, one.version, there))
        return seen

    return follow


def test_a_task_is_shown_again_only_after_a_change(followed: Any) -> None:
    server = FakeServer(
        ([task("a"), task("b")], [event("MODIFIED", task("a", 2))]),
        ([task("a", 2), task("b")], [event("ADDED", task("c"))]),
    )
    assert followed(server) == [("a", "1", True), ("b", "1", True), ("a", "2", True), ("c", "1", True)]
    assert {(one["resource_version"], one["timeout_seconds"] <= 60) for one in server.asked} == {("7", True)}


def test_a_change_and_an_end_between_two_watches_are_shown(followed: Any) -> None:
    server = FakeServer(([task("a"), task("b")], []), ([task("a", 5)], []))
    assert followed(server)[2:] == [("a", "5", True), ("b", "1", False)]


def test_a_task_that_a_watch_deletes_is_shown_once(followed: Any) -> None:
    server = FakeServer(([task("a")], [event("DELETED", task("a", 2))]), ([], []))
    assert followed(server)[1:] == [("a", "2", False)]


def test_an_expired_watch_begins_again(followed: Any) -> None:
    server = FakeServer(([task("a")], [ApiException(status=410)]), ([task("a", 2)], []))
    assert followed(server) == [("a", "1", True), ("a", "2", True)]


def test_a_broken_connection_is_tried_again_but_not_for_ever(followed: Any) -> None:
    broken = urllib3.exceptions.ProtocolError("reset")
    server = FakeServer(([task("a")], [broken]), *[(broken, [])] * 9, ([task("a", 2)], []))
    assert followed(server) == [("a", "1", True), ("a", "2", True)]
    with pytest.raises(UnreachableError, match="cannot list agenttasks"):
        followed(FakeServer(*[(broken, [])] * 11))
