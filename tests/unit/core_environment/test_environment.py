"""What `.coding-agent.yaml` may hold, and which images a pattern allows."""

from __future__ import annotations

import re

import pytest
from coding_agent_core.attempts import MAX_MESSAGE_BYTES, MAX_PLACE, MAX_TAIL, Outcome
from coding_agent_core.egress import MAX_DENIALS, Denial
from coding_agent_core.environment import (
    MAX_POD_BYTES,
    Environment,
    EnvironmentFileError,
    RepositoryFile,
    image_pattern,
    matches,
    read_file,
)
from coding_agent_core.reasons import Reason
from coding_agent_core.settings.attempts import RepositoryEnvironment
from coding_agent_core.usage import ModelUsage, Usage
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

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
        (b'setup: ["a\\0b"]', "`setup.0`: contains a NUL character"),
        (SERVICE.replace(b"1.10", b'"a\\0b"'), "`services.db.env.VERSION`: contains a NUL character"),
        (b"[" * 5000, "nested too deeply"),
        (b"x" * 70_000, "more than 64 KiB"),
    ],
    ids=lambda value: str(value)[:40],
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


_PARTS = st.sampled_from(
    [
        *(
            "ghcr.io",
            "GHCR.IO",
            "ghcr.io.",
            "ghcr.io:443",
            "ghcr.io.evil.example",
            "evil.example",
            "xghcr.io",
        ),
        *(
            "user@ghcr.io",
            "https:",
            "localhost",
            "acme",
            "Acme",
            "acme2",
            "ac-me",
            "acm\u0435",
            "evil",
            "tools",
        ),
        *("..", ".", "", "*", "%2e%2e", "\\", "acme\n", "\nghcr.io", "acme\0", "acme\u200b", " acme", "a__b"),
    ]
)
_ENDS = st.sampled_from(
    [
        "",
        ":1",
        ":1.2-rc_3",
        ":",
        ":..",
        ":1/evil",
        "\n",
        ":1\n",
        "\0",
        "@evil",
        DIGEST,
        f":1{DIGEST}",
        f"{DIGEST}0",
    ]
)
_IMAGES = st.builds(lambda parts, end: "/".join(parts) + end, st.lists(_PARTS, max_size=5), _ENDS)


@given(_IMAGES | st.text(max_size=40).map("ghcr.io/acme/{}".format) | st.text(max_size=40))
@example("ghcr.io/acme/../evil/tools")
@example("ghcr.io/acme/tools\n")
def test_a_pattern_never_allows_another_registry_or_owner(image: str) -> None:
    if matches(image, "ghcr.io/acme/*"):
        registry, owner, rest = image.split("/")
        assert (registry, owner) == ("ghcr.io", "acme")
        assert re.fullmatch(r"[a-z0-9._-]+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?", rest)
        assert not {"..", "."} & set(re.split("[:@]", rest))
        assert read_file(f"image: '{image}'".encode()).image == image, "what is allowed can be asked for"


@given(
    st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True).filter(str.isascii),
    st.sampled_from(["", ":1", ":1.2-rc_3", DIGEST, f":1{DIGEST}"]),
)
def test_a_pattern_allows_each_repository_of_its_owner(name: str, end: str) -> None:
    assert matches(f"ghcr.io/acme/{name}{end}", "ghcr.io/acme/*")
    assert not matches(f"ghcr.io/acme/sub/{name}{end}", "ghcr.io/acme/*")
    assert not matches(f"ghcr.io/other/{name}{end}", "ghcr.io/acme/*")


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "*",
            "*/acme/tools",
            "*.io/acme/*",
            "ghcr.*/acme/*",
            "ghcr.io",
            "ghcr.io/",
            "acme/*",
            "ghcr.io//tools",
        ),
        *(
            "ghcr.io/../*",
            "ghcr.io/acme/..",
            "GHCR.io/acme/*",
            "ghcr.io/Acme/*",
            "ghcr.io/acme/*\n",
            "ghcr.io/a\0",
        ),
        *(
            "ghcr.io:*/acme/*",
            "https://ghcr.io/acme/*",
            "ghcr.io/acme/?",
            "ghcr.io/acme/[a-z]",
            "ghcr.io/a/*@*",
            "",
        ),
    ],
)
def test_a_pattern_that_is_none_is_refused_and_allows_nothing(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not an image pattern"):
        image_pattern(pattern)
    assert not matches("ghcr.io/acme/tools:1", pattern)


_VALUES = st.dictionaries(
    st.sampled_from([f"NAME_{number}" for number in range(20)]),
    st.text(st.characters(codec="utf-8")),
    max_size=20,
)


@given(_VALUES, st.lists(st.sampled_from([f"{'p' * 30}{number}" for number in range(10)]), max_size=10))
@example({"A": "\u20ac" * 400, "B": '"' * 300}, [])
def test_whatever_pod_is_allowed_gets_through_the_termination_message(
    env: dict[str, str], presets: list[str]
) -> None:
    service = {"image": f"ghcr.io/{'d' * 100}", "port": 5432, "env": env}
    try:
        file = RepositoryFile.model_validate({"egress": presets, "services": {"db": service}})
    except ValidationError:
        assume(False)
    assert len(file.pod.model_dump_json().encode()) <= MAX_POD_BYTES
    is_left(file.pod)


def test_the_largest_pod_gets_through_with_the_longest_of_all_else() -> None:
    service = {"image": "ghcr.io/d", "port": 5432}
    empty = RepositoryFile.model_validate(
        {"services": {"db": {**service, "env": {"A": "", "B": "", "C": ""}}}}
    )
    left = MAX_POD_BYTES - len(empty.pod.model_dump_json().encode())
    env = {"A": "\u20ac" * 400, "B": '"' * 200, "C": "c" * (left - 1600)}
    file = RepositoryFile.model_validate({"services": {"db": {**service, "env": env}}})
    assert len(file.pod.model_dump_json().encode()) == MAX_POD_BYTES
    is_left(file.pod)


def is_left(environment: Environment) -> None:
    """It is in the operator's hands afterwards, as it was."""
    outcome = Outcome(
        reason=Reason.ENVIRONMENT_CHANGED,
        message=f"It needs another pod ({environment}). " * 20,
        environment=environment,
        transcript="t" * MAX_PLACE,
        transcript_url=f"https://example.com/{'u' * 1000}",
        tail="\u20ac" * MAX_TAIL,
        summary="s" * 4000,
        denied=tuple(Denial(host="h" * 250, count=1) for _ in range(MAX_DENIALS)),
        usage=Usage(requests=1, models=tuple(ModelUsage(model="m" * 256) for _ in range(8))),
    )
    text = outcome.to_termination_message()
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    left = Outcome.from_termination_message(text)
    assert left is not None
    assert left.environment == environment
