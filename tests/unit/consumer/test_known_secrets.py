"""Which secrets an attempt takes out of what it shows: all of the settings' types, and of its environment."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.transcripts.transcript import scrub_for
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings
from coding_agent_core.settings.section import SecretSettings
from coding_agent_core.task.egress import WORKSPACE_PROXY, variables
from pydantic import BaseModel

SECRET = "S3cret-0123456789"


def types_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a value of this type can contain."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from types_in(part)


def with_a_secret(model: type[BaseModel], secret: SecretSettings) -> Iterator[tuple[str, BaseModel]]:
    """Yield settings with the secret in each of the fields that can have one, and the field's name."""
    for name, field in model.model_fields.items():
        origin = typing.get_origin(field.annotation)
        for part in types_in(field.annotation):
            below = [("", secret)] if part is SecretSettings else with_a_secret(part, secret)
            for path, value in below:
                held = (value,) if origin is tuple else {"key": value} if origin is dict else value
                # The values of other fields do not matter; those that the model requires get any.
                required: dict[str, Any] = dict.fromkeys(
                    (key for key, one in model.model_fields.items() if one.is_required()), Path("any")
                )
                yield f"{name}.{path}".rstrip("."), model.model_construct(**{**required, name: held})


KNOWN = dict(with_a_secret(Settings, SecretSettings.model_validate({"values": [SECRET]})))


def test_the_walk_finds_every_place_of_a_secret() -> None:
    assert {name for name, path in VARIABLES.items() if ".".join(path) in KNOWN} == SECRET_VARIABLES
    assert {"egress.parent.credentials", "gateway.fallbacks.api_key", "github.app.service.key"} <= set(KNOWN)


@pytest.mark.parametrize("settings", [pytest.param(value, id=name) for name, value in KNOWN.items()])
def test_every_secret_of_the_settings_is_known(settings: Settings) -> None:
    assert scrub_for(settings, {})(f"<{SECRET}>") == "<***>"


@pytest.mark.parametrize("name", ["consumer.commits.signing_key", "github.app.private_key_file"])
def test_a_private_key_is_known_by_its_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_text(f"-----BEGIN\n{SECRET}\n")
    sections = {
        "consumer": {"commits": {"signing_key": tmp_path / "key"}},
        "github": {"app": {"app_id": 1, "private_key_file": tmp_path / "key"}},
    }
    section = name.partition(".")[0]
    scrub = scrub_for(Settings.model_validate({section: sections[section]}), {})
    assert scrub(f"-----BEGIN\n{SECRET}\n") == "***\n"


CLOUD = {
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}/2",
    "AWS_SESSION_TOKEN": f"{SECRET}+3",
}
IDENTITY = variables("10.0.0.1:3128", "web-1.workspace", SECRET)


@pytest.mark.parametrize(
    ("environment", "text", "shown"),
    [
        pytest.param(CLOUD, " ".join(CLOUD.values()), "*** *** ***", id="keys"),
        pytest.param(
            IDENTITY, f"x {IDENTITY['HTTPS_PROXY']}", "x http://web-1.workspace:***@10.0.0.1:3128", id="proxy"
        ),
        pytest.param(
            {WORKSPACE_PROXY: IDENTITY["HTTPS_PROXY"]},
            IDENTITY["http_proxy"],
            "http://web-1.workspace:***@10.0.0.1:3128",
            id="the workspace's proxy",
        ),
        pytest.param(
            {"DATABASE": "pg://a:p%40ssword-1@db/x"}, "p@ssword-1 p%40ssword-1", "*** ***", id="quoted"
        ),
        pytest.param({"PIP_INDEX_URL": f"https://{SECRET}@host/"}, f"{SECRET}", "***", id="only a user"),
        pytest.param({"DATABASE": "pg://inventory@db/x"}, "inventory", "inventory", id="no token"),
        pytest.param({"KEYCLOAK_REALM": "production"}, "production", "production", id="no secret"),
        pytest.param({"TOKEN_FILE": "/run/secrets/a"}, "/run/secrets/a", "/run/secrets/a", id="a file"),
        pytest.param({"MY_TOKEN": "short"}, "short", "short", id="an ordinary word"),
    ],
)
def test_what_the_environment_holds_is_known(environment: dict[str, str], text: str, shown: str) -> None:
    assert scrub_for(Settings(), environment)(text) == shown


def test_secrets_in_plain_fields_are_known() -> None:
    env = [{"name": "NPM_TOKEN", "value": f"{SECRET}-1"}, {"name": "TZ", "value": "Asia/Tokyo"}]
    proxy = {"name": "HTTPS_PROXY", "value": f"http://me:{SECRET}-2@proxy:3128"}
    other = {"name": "NPM_TOKEN", "value": f"{SECRET}-4"}
    containers = [{"name": "workspace", "env": env}, {"name": "agent", "env": [proxy, other]}]
    settings = Settings.model_validate(
        {
            "operator": {"job": {"pod_template": {"spec": {"containers": containers}}}},
            "consumer": {"runner": "command", "command": ["work", "--api-key", f"{SECRET}-3"]},
        }
    )
    scrub = scrub_for(settings, {})
    assert scrub(f"{SECRET}-1 {SECRET}-2 {SECRET}-3 {SECRET}-4 Asia/Tokyo") == "*** *** *** *** Asia/Tokyo"
