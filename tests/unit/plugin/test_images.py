"""Whether a registry has the images, and what builds them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from kubectl_agenttask import PluginError, images
from kubectl_agenttask.answers import Asker
from kubectl_agenttask.images import build_images, build_script, lacks_images, wanted_images

ROOT = Path(__file__).resolve().parents[3]
UNKNOWN = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}


@contextmanager
def registry(status: int, body: object) -> Iterator[tuple[str, list[str]]]:
    """A registry with one answer; its name, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "lacks"),
    [
        (200, {"schemaVersion": 2}, False),
        (404, UNKNOWN, True),
        (404, {"errors": [{"code": "NAME_UNKNOWN"}]}, True),
        (404, "a page of something else", False),
        (404, [], False),
        (401, {"errors": [{"code": "UNAUTHORIZED"}]}, False),
        (500, UNKNOWN, False),
    ],
)
def test_only_a_registry_that_says_so_has_no_images(status: int, body: object, lacks: bool) -> None:
    with registry(status, body) as (name, asked):
        assert lacks_images(f"{name}/team", "0.1.0") is lacks
        assert asked == ["/v2/team/coding-agent-operator/manifests/0.1.0"]


def test_a_person_is_asked_before_images_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    monkeypatch.setattr(images, "build_images", lambda script, name: built.append(name))
    chart = str(ROOT / "charts" / "coding-agent")
    with registry(404, UNKNOWN) as (name, _):
        left = images.provide_images(Asker(interactive=False), name, "7", chart)
        assert f"{name} has no images of 7." in left
        assert f"make images REGISTRY={name}" in left
        no = Asker(interactive=True, line=lambda _: "n")
        assert images.provide_images(no, name, "7", chart) == left
        assert images.provide_images(no, name, "7", "oci://charts/coding-agent") == left
        assert built == []
        yes = Asker(interactive=True, line=lambda _: "y")
        assert images.provide_images(yes, name, "7", chart) == ""
        assert built == [name]
    assert images.provide_images(yes, "", "7", chart) == ""


def test_a_registry_that_this_machine_cannot_reach_may_have_them() -> None:
    assert lacks_images("127.0.0.1:9", "0.1.0") is False


def test_registry_and_tag_come_from_the_flag_and_the_earlier_values() -> None:
    earlier = {"image": {"registry": "old.example.com", "tag": "7"}}
    assert wanted_images("", {}) == ("", version("kubectl-agenttask"))
    assert wanted_images("", earlier) == ("old.example.com", "7")
    assert wanted_images("new.example.com", earlier) == ("new.example.com", "7")


def test_a_checkout_has_the_script_and_a_released_chart_has_none(tmp_path: Path) -> None:
    assert build_script(str(ROOT / "charts" / "coding-agent")) == ROOT / "dev" / "images.sh"
    assert build_script("oci://registry.example.com/charts/coding-agent") is None
    script = tmp_path / "images.sh"
    script.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/called\nexit "$(cat {tmp_path}/status)"\n')
    script.chmod(0o755)
    (tmp_path / "status").write_text("0")
    build_images(script, "registry.example.com")
    assert (tmp_path / "called").read_text() == "registry.example.com\n"
    (tmp_path / "status").write_text("1")
    with pytest.raises(PluginError, match="make images REGISTRY="):
        build_images(script, "registry.example.com")
    with pytest.raises(PluginError, match="cannot be started"):
        build_images(tmp_path / "nothing", "registry.example.com")
