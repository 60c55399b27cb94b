"""What `.coding-agent.yaml` may hold, and which images a pattern allows."""

from __future__ import annotations

import pytest
from coding_agent_core.environment import EnvironmentFileError, RepositoryFile, matches, read_file
from coding_agent_core.settings.environment import RepositoryEnvironment
from hypothesis import given
from hypothesis import strategies as st

SERVICE = b"services: {db: {image: registry.example.com/db:1, port: 5432, env: {VERSION: 1.10}}}"
DIGEST = "@sha256:" + "a" * 64


def test_every_scalar_is_text() -> None:
    assert read_file(SERVICE).pod.services[0].env == {"VERSION": "1.10"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"imag: x", "`imag`: is not a known key; write one of image, setup"),
        (b"setup: make", "`setup`: must be a list"),
        (b"image: tools:1", "`image`: is not an image with its registry"),
        (b"x: &a [1]\ny: *a", "line 2, is not valid YAML"),
        (b"setup: [a]\nsetup: [b]", "line 2, is not valid YAML"),
        (b"[" * 5000, "nested too deeply"),
        (b"x" * 70_000, "more than 64 KiB"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, told: str) -> None:
    with pytest.raises(EnvironmentFileError, match=r"`\.coding-agent\.yaml`") as caught:
        read_file(content)
    assert told in str(caught.value)


@given(st.binary(max_size=200))
def test_any_content_is_read_or_refused_in_a_sentence(content: bytes) -> None:
    told = "."
    try:
        read_file(content)
    except EnvironmentFileError as error:
        told = str(error)
    assert told.endswith(".")


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example.com/team/tools:1", True),
        (f"registry.example.com/team/tools{DIGEST}", True),
        ("registry.example.com/team/sub/tools:1", False),
        ("registry.example.com/other/tools:1", False),
        ("registry.example.com/team/../other/tools:1", False),
        ("evil.example.com/registry.example.com/team/tools:1", False),
        ("registry.example.com.evil.example/team/tools:1", False),
        ("registry.example.com:5000/team/tools:1", False),
        ("team/tools:1", False),
    ],
)
def test_a_pattern_allows_one_level_of_one_registry(image: str, allowed: bool) -> None:
    assert matches(image, "registry.example.com/team/*") is allowed


def test_a_pattern_with_a_tag_allows_no_digest() -> None:
    assert matches("registry.example.com/db:16", "registry.example.com/db:1*")
    assert not matches(f"registry.example.com/db:16{DIGEST}", "registry.example.com/db:1*")


def test_by_default_only_setup_is_allowed() -> None:
    settings = RepositoryEnvironment()
    assert settings.refusal(RepositoryFile(setup=("make",)), ()) is None
    for content, setting in (
        (b"image: registry.example.com/a", "repository_environment.images"),
        (b"runner: codex", "repository_environment.runners"),
        (b"egress: [node]", "egress.presets"),
        (SERVICE, "repository_environment.service_images"),
    ):
        refused = settings.refusal(read_file(content), ())
        assert refused is not None
        assert setting in refused
