"""What `.coding-agent.yaml` may hold, and which images a pattern allows."""

import re

import pytest
from coding_agent_consumer.item.background import read_file
from coding_agent_core.platforms.addresses import MAX_PLACE
from coding_agent_core.settings.attempt_settings import RepositoryEnvironment, Verify
from coding_agent_core.task.attempts import MAX_MESSAGE_BYTES, MAX_TAIL, Outcome
from coding_agent_core.task.egress import MAX_DENIALS, Denial
from coding_agent_core.task.environment import (
    MAX_POD_BYTES,
    Environment,
    EnvironmentFileError,
    RepositoryFile,
    image_pattern,
    matches,
)
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import ModelUsage, Usage
from hypothesis import example, given, settings
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
        (b"verify: make", "`verify`: must be a list"),
        (b"verify: [{ran: make}]", "`verify.0.run`: is missing"),
        (b"verify: [{run: make, time: 1}]", "`verify.0.time`: is not a known key; write one of run, timeout"),
        (b"verify: [{run: x, timeout_seconds: long}]", "`verify.0.timeout_seconds`: must be a whole number"),
        (b"verify: [{run: x, timeout_seconds: 7201}]", "must be at most 7200"),
        (b"verify: [a, a, a, a, a, a, a, a, a, a, a]", "`verify`: has more than 10 entries"),
        (SERVICE.replace(b"1.10", b'"a\\0b"'), "`services.db.env.VERSION`: contains a NUL character"),
        (b"checkout: services", "`checkout`: must be a list"),
        (
            b"checkout: [a, /b]",
            "`checkout.1`: is not a folder of the repository; write its path from the root",
        ),
        (b"checkout: [a/]", "`checkout.0`: is not a folder"),
        (b"checkout: [a//b]", "`checkout.0`: is not a folder"),
        (b"checkout: [a/../b]", "`checkout.0`: is not a folder"),
        (b"checkout: [.]", "`checkout.0`: is not a folder"),
        (b"checkout: [a/.git/b]", "`checkout.0`: is not a folder"),
        (b"checkout: ['a/*']", "`checkout.0`: is not a folder"),
        (b'checkout: ["a\\nb"]', "`checkout.0`: is not a folder"),
        (b"checkout: ['']", "`checkout.0`: is not a folder"),
        (b"[" * 5000, "nested too deeply"),
        (b"x" * 70_000, "more than 64 KiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_named(content: bytes, told: str) -> None:
    with pytest.raises(EnvironmentFileError, match=r"`\.coding-agent\.yaml`") as caught:
        read_file(content)
    assert told in str(caught.value)


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_any_content_is_read_or_refused_in_a_sentence(content: bytes) -> None:
    told = "."
    try:
        read_file(content)
    except EnvironmentFileError as error:
        told = str(error)
    assert told.endswith(".")


def test_folders_to_check_out_are_paths_from_the_root() -> None:
    file = read_file("checkout: [services/billing, libs, 'with blank/größe', .github]".encode())
    assert file.checkout == ("services/billing", "libs", "with blank/größe", ".github")
    assert not file.pod, "they need no other pod"


def test_verify_commands_are_short_or_long() -> None:
    file = read_file(b"verify: [make lint, {run: make test, timeout_seconds: 60}]")
    assert [(one.run, one.timeout_seconds) for one in file.verify or ()] == [
        ("make lint", 600),
        ("make test", 60),
    ]
    common = Verify.model_validate({"commands": ["make check"]})
    assert common.commands_of(file) == file.verify
    assert [one.run for one in common.commands_of(RepositoryFile())] == ["make check"]
    assert common.commands_of(read_file(b"verify: []")) == (), "a repository can have none"
    refused = RepositoryEnvironment(verify=False).refusal(file, ())
    assert refused is not None
    assert "repository_environment.verify" in refused


def test_by_default_only_commands_are_allowed() -> None:
    allowed = RepositoryEnvironment()
    assert allowed.refusal(RepositoryFile(setup=("make",), verify=()), ()) is None
    for content, setting in (
        (b"image: registry.example.com/a", "repository_environment.images"),
        (b"runner: codex", "repository_environment.runners"),
        (b"egress: [node]", "egress.presets"),
        (SERVICE, "repository_environment.service_images"),
    ):
        refused = allowed.refusal(read_file(content), ())
        assert refused is not None
        assert setting in refused


ALLOWED = ("tools", "tools:1.2-rc_3", f"a__b{DIGEST}", f"a:1{DIGEST}")
NOT_ALLOWED = (
    *("ghcr.io/acme/sub/tools", "ghcr.io/acme2/tools", "ghcr.io/tools", "ghcr.io/Acme/tools", "acme/tools"),
    *("ghcr.io/acme/../evil/tools", "ghcr.io/acme/..", "ghcr.io/acme/tools\n", "ghcr.io/acme/a\0"),
    *("ghcr.io/acme/", "ghcr.io/acme/*", "ghcr.io/acme/a:1/b", "ghcr.io/acme/a:", "ghcr.io/acme/a:.."),
    *("ghcr.io/acme/a@evil", f"ghcr.io/acme/a{DIGEST}0", "ghcr.io/acme/a\u200b", "ghcr.io/acme/a%2e"),
    *("GHCR.IO/acme/a", "ghcr.io./acme/a", "ghcr.io:443/acme/a", "xghcr.io/acme/a", "u@ghcr.io/acme/a"),
    *("ghcr.io.evil.example/acme/a", "evil.example/ghcr.io/acme/a", "https://ghcr.io/acme/a"),
    "ghcr.io/acm\u0435/a",
)


def test_a_pattern_allows_one_level_of_one_owner() -> None:
    for image in (f"ghcr.io/acme/{name}" for name in ALLOWED):
        assert matches(image, "ghcr.io/acme/*"), image
        assert read_file(f"image: '{image}'".encode()).image == image, "it can be asked for"
    assert [image for image in NOT_ALLOWED if matches(image, "ghcr.io/acme/*")] == []


def test_a_pattern_with_a_tag_allows_no_digest() -> None:
    assert matches("registry.example.com/db:16", "registry.example.com/db:1*")
    assert not matches(f"registry.example.com/db:16{DIGEST}", "registry.example.com/db:1*")


@settings(max_examples=60)
@given(st.text(max_size=40).map("ghcr.io/acme/{}".format) | st.text("ghcr.io/acme:@.*\n", max_size=40))
def test_a_pattern_never_allows_another_registry_or_owner(image: str) -> None:
    if matches(image, "ghcr.io/acme/*"):
        registry, owner, rest = image.split("/")
        assert (registry, owner) == ("ghcr.io", "acme")
        assert re.fullmatch(r"[a-z0-9._-]+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?", rest)
        assert not {"..", "."} & set(re.split("[:@]", rest))


@pytest.mark.parametrize(
    "pattern",
    [
        *[
            "*",
            "*/acme/tools",
            "*.io/acme/*",
            "ghcr.*/acme/*",
            "ghcr.io",
            "ghcr.io/",
            "acme/*",
            "ghcr.io//tools",
            "ghcr.io/../*",
        ],
        *[
            "ghcr.io/acme/..",
            "GHCR.io/acme/*",
            "ghcr.io/Acme/*",
            "ghcr.io:*/acme/*",
            "https://ghcr.io/acme/*",
        ],
        *("ghcr.io/acme/?", "ghcr.io/acme/[a-z]", "ghcr.io/a/*@*", "ghcr.io/acme/*\n", "ghcr.io/a\0", ""),
    ],
)
def test_a_pattern_that_is_none_is_refused_and_allows_nothing(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not an image pattern"):
        image_pattern(pattern)
    assert not matches("ghcr.io/acme/tools:1", pattern)


@settings(max_examples=60)
@given(st.text('\u20ac"\\a', max_size=1200), st.integers(0, 10))
@example("\u20ac" * 400 + '"' * 200, 0)
def test_the_largest_pod_gets_through_the_termination_message(text: str, presets: int) -> None:
    """It is in the operator's hands afterwards as it was, with the longest of all else."""

    def pod_with(filling: int) -> Environment:
        env = {f"A{n}": text[n * 400 : (n + 1) * 400] for n in range(3)}
        env |= {f"F{n}": "c" * min(512, max(0, filling - n * 512)) for n in range(5)}
        service = {"image": "ghcr.io/d", "port": 5432, "env": env}
        given = {"egress": [f"{'p' * 30}{number}" for number in range(presets)], "services": {"db": service}}
        return RepositoryFile.model_validate(given).pod

    try:
        left = MAX_POD_BYTES - len(pod_with(0).model_dump_json().encode())
    except ValidationError:
        return  # too large without it
    environment = pod_with(left)
    assert len(environment.model_dump_json().encode()) == MAX_POD_BYTES
    with pytest.raises(ValidationError, match="shorten `env`"):
        pod_with(left + 1)
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
    message = outcome.to_termination_message()
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    left_behind = Outcome.from_termination_message(message)
    assert left_behind is not None
    assert left_behind.environment == environment
