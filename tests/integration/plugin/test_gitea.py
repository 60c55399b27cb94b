"""`init` and `doctor` for a real Gitea, whose refusals are in its own words."""

from typing import Any

import httpx2
import pytest
import yaml
from coding_agent_testbed.model import ModelServer
from coding_agent_testbed.until import until

from tests.fixtures.crd import install, older
from tests.fixtures.model import API_KEY
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import Plugin, Said
from tests.integration.plugin.newcomer import LIMIT, install_release, let_pods_run

LABELS = {"coding agent", "coding agent processing", "coding agent done"}
OUTDATED = "is not of this plugin's release: 2 fields are missing (spec.title, status.queuePosition)"
TOKEN = "GITEA_PERSONAL_ACCESS_TOKEN"
# `make nightly` builds Gitea.
pytestmark = pytest.mark.long


def write_secret(place: Place, name: str, key: str, value: str) -> None:
    place.plane.core.patch_namespaced_secret(name, place.namespace, {"stringData": {key: value}}, **LIMIT)


def test_a_repository_on_a_real_gitea_is_set_up_or_the_sentence_says_why_not(
    place: Place,
    plugin: Plugin,
    model: ModelServer,
    gitea: Any,
    gitea_sample: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = gitea_sample
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    def init(token: str, *more: str, status: int = 0) -> Said:
        monkeypatch.setenv(TOKEN, token)
        arguments = ["--platform", "gitea", "--api-url", sample.url, "--repo", sample.repository]
        arguments += ["--model-url", model.base_url, "--model", "scripted"]
        return plugin("init", *arguments, "--values", str(place.folder / "values.yaml"), *more, status=status)

    line = init("wrong", status=1).only_wrong
    assert "refused asking who our token belongs to (401)" in line
    reading = httpx2.post(
        f"{sample.api_url}/users/{sample.bot.login}/tokens",
        auth=(sample.bot.login, sample.bot.password),
        json={"name": "reading", "scopes": ["read:issue"]},
        timeout=60,
        trust_env=False,
    ).json()
    line = init(reading["sha1"], status=1).only_wrong
    assert "required scope" in line
    line = init(sample.bot.token, status=1).only_wrong
    assert "the account is no administrator" in line

    with gitea.api() as admin:
        admin.add_collaborator(sample.repository, sample.bot.login, "admin")
        said = init(sample.bot.token, "--webhook", "https://agent.example.com")
        assert set(admin.labels(sample.repository)) >= LABELS
        [hook] = admin.call("GET", f"/repos/{sample.repository}/hooks")
    assert hook["config"]["url"] == "https://agent.example.com/webhook/gitea"
    assert "created  webhook" in said.out
    again = init(sample.bot.token, "--webhook", "https://agent.example.com")
    assert "created" not in again.out
    owner = sample.repository.partition("/")[0]
    arguments = ["--platform", "gitea", "--api-url", sample.url, "--owner", owner, "--model", "scripted"]
    arguments += ["--model-url", model.base_url, "--values", str(place.folder / "owner.yaml")]
    assert f"{owner} has 1 repository" in plugin("init", *arguments).out

    release = install_release(place, yaml.safe_load((place.folder / "values.yaml").read_text()))
    let_pods_run(place)
    said = plugin("doctor")
    assert said.wrong == []
    assert sample.bot.login in said.out
    assert sample.bot.token not in said.out
    assert "no delivery is shown" in said.out, "only Gitea's pages show them"
    place.plane.apply(older())
    until(OUTDATED, lambda: any(OUTDATED in line for line in plugin("doctor", status=None).wrong))
    install(place.plane)
    let_pods_run(place)
    write_secret(place, "model-key", "api-key", "sk-wrong-key")
    line = plugin("doctor", status=1).only_wrong
    assert "does not accept the key" in line
    write_secret(place, "model-key", "api-key", API_KEY)
    release.upgrade({"networkPolicy": {"forge": {"ports": [443]}}})
    let_pods_run(place)
    line = plugin("doctor", status=1).only_wrong
    assert "the NetworkPolicy blocks" in line
    assert "networkPolicy.forge.ports" in line
    release.upgrade()
    let_pods_run(place)
    with gitea.api() as admin:
        admin.add_collaborator(sample.repository, sample.bot.login, "read")
    lines = plugin("doctor", status=1).wrong
    assert [any(text in line for line in lines) for text in ("may not push", "no administrator")] == [
        True
    ] * 2
    write_secret(place, "gitea-token", "token", "wrong")
    line = plugin("doctor", status=1).only_wrong
    assert "refused asking who our token belongs to (401)" in line
    assert "the key `token` of the Secret `gitea-token`" in line
