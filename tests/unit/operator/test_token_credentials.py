"""The credentials with which the pods of Jobs ask for tokens of a GitHub App."""

from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.model import Settings
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.token_credential import (
    CREDENTIAL_VARIABLE,
    TokenCredential,
    read_credential,
)
from coding_agent_operator.jobs.job import build_job
from coding_agent_operator.jobs.job_builder import TokenCredentials

from tests.unit.operator.making import NOW, task

KEY = "k" * 32


def settings(key: str = KEY, github: dict[str, Any] | None = None, **sections: Any) -> Settings:
    service = {"url": "http://tokens:8080", "key": key}
    app = {"app_id": 7, "private_key_file": "/absent", "service": service}
    return Settings.model_validate({"github": {"app": app, **(github or {})}, **sections})


def made(given: Settings) -> dict[str, Any]:
    manifest = build_job(task(), 2, JobTemplate())
    credentials = TokenCredentials(given, "team-a", lambda: NOW)
    return dict(credentials.given_to(manifest, Purpose.ATTEMPT, task().spec.item))


def credentials(manifest: dict[str, Any]) -> dict[str, str]:
    pod = manifest["spec"]["template"]["spec"]
    return {
        container["name"]: entry["value"]
        for container in (*pod["initContainers"], *pod["containers"])
        for entry in container.get("env", ())
        if entry["name"] == CREDENTIAL_VARIABLE
    }


@pytest.mark.parametrize(("engine", "waits"), [("native", timedelta()), ("kueue", timedelta(days=7))])
def test_only_the_agent_has_a_credential_for_its_repository_until_the_job_has_ended(
    engine: str, waits: timedelta
) -> None:
    manifest = made(settings(queue={"backend": "kubernetes", "engine": engine}))
    [(container, text)] = credentials(manifest).items()
    limit = timedelta(seconds=manifest["spec"]["activeDeadlineSeconds"])
    item = task().spec.item
    assert container == "agent"
    assert read_credential(text, [KEY], NOW) == TokenCredential(
        job=manifest["metadata"]["name"],
        host=item.host,
        repository=item.repository,
        purpose=Purpose.ATTEMPT,
        expires=NOW + limit + timedelta(minutes=5) + waits,
        namespace="team-a",
    )


def test_without_an_app_on_this_host_there_is_none() -> None:
    assert credentials(made(Settings())) == {}
    elsewhere = settings(github={"api_url": "https://git.example.com/api/v3"})
    assert credentials(made(elsewhere)) == {}


@pytest.mark.parametrize("key", ["", "short"])
def test_without_a_key_no_attempt_starts(key: str) -> None:
    with pytest.raises(ApiError, match=r"github.app.service.key: attempts cannot get tokens"):
        made(settings(key))
