"""What a test counts from a watch is what the API server saw, or an error."""

from __future__ import annotations

import pytest
from coding_agent_cluster.wait import until

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.watcher import Object, Watcher


class Seen(Watcher):
    """The changes of a namespace's ConfigMaps, without the one that Kubernetes puts there."""

    def __init__(self, plane: PlaneUnderTest, namespace: str) -> None:
        super().__init__(plane.core.list_namespaced_config_map, namespace)
        self._core, self._namespace = plane.core, namespace
        self.changes: list[tuple[str, str]] = []

    def see(self, kind: str, found: Object) -> None:
        name = found["metadata"]["name"]
        if name == "unwanted":
            raise ValueError("no such thing was expected")
        if name != "kube-root-ca.crt":
            self.changes.append((kind, name))

    def make(self, name: str) -> None:
        self._core.create_namespaced_config_map(self._namespace, {"metadata": {"name": name}})

    def delete(self, name: str) -> None:
        self._core.delete_namespaced_config_map(name, self._namespace)

    def until_seen(self, *changes: tuple[str, str]) -> None:
        def told() -> bool:
            if len(self.changes) < len(changes):
                raise ValueError(f"so far: {self.changes}")
            assert self.changes == list(changes)
            return True

        until("all changes", told, timeout=60, alive=self.check)


def test_it_sees_each_change_and_what_was_there_before(control_plane: PlaneUnderTest, namespace: str) -> None:
    seen = Seen(control_plane, namespace)
    seen.make("before")
    with seen:
        seen.make("one")
        control_plane.core.patch_namespaced_config_map("one", namespace, {"data": {"a": "b"}})
        seen.delete("one")
        seen.until_seen(("ADDED", "before"), ("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one"))


def test_it_lists_again_what_changed_since_a_version_that_is_no_longer_known(
    chaos_plane: PlaneUnderTest, namespace: str
) -> None:
    seen = Seen(chaos_plane, namespace)
    seen.make("kept")
    seen.make("lost")
    seen._list()
    seen.delete("lost")
    seen.make("new")
    chaos_plane.kill("kube-apiserver")
    chaos_plane.start("kube-apiserver")
    seen._version = "1"  # older than anything in its new cache: it answers 410
    seen._thread.start()
    seen.until_seen(("ADDED", "kept"), ("ADDED", "lost"), ("DELETED", "lost"), ("ADDED", "new"))
    seen.__exit__(None)


def test_it_goes_on_after_the_api_server_was_away(chaos_plane: PlaneUnderTest, namespace: str) -> None:
    with Seen(chaos_plane, namespace) as seen:
        seen.make("one")
        seen.until_seen(("ADDED", "one"))
        chaos_plane.kill("kube-apiserver")
        chaos_plane.start("kube-apiserver")
        seen.make("two")
        seen.until_seen(("ADDED", "one"), ("ADDED", "two"))


def test_an_error_ends_it_and_is_raised(control_plane: PlaneUnderTest, namespace: str) -> None:
    seen = Seen(control_plane, namespace)

    def count() -> None:
        with seen:
            seen.make("unwanted")
            until("its end", lambda: not seen._thread.is_alive(), timeout=60)

    with pytest.raises(RuntimeError, match="list_namespaced_config_map has ended") as raised:
        count()
    assert "no such thing was expected" in str(raised.value.__cause__)
