"""Where the credentials for the cluster come from."""

from pathlib import Path

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.kubernetes.transport import Access
from kubernetes.aio import client

CONFIG = """
current-context: a
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: a, context: {cluster: c, user: u, namespace: team}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def account(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("t")
    return folder


def test_what_a_person_names_wins_over_the_pods_account(kubeconfig: Path, account: Path) -> None:
    environment = {"KUBECONFIG": str(kubeconfig), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert Access.find(environment, account) == Access(str(kubeconfig))


def test_in_a_pod_its_account_is_used(account: Path) -> None:
    assert Access.find({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, account) == Access(None)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [({}, "set KUBECONFIG"), ({"KUBECONFIG": "/nowhere/config"}, "no file /nowhere/config")],
)
def test_no_way_to_a_cluster_is_said_at_the_start(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Access.find({"HOME": str(tmp_path), **environment}, tmp_path / "none")


async def test_the_contexts_namespace_and_token_are_taken(kubeconfig: Path) -> None:
    settings = client.Configuration()
    assert await Access(str(kubeconfig)).load(settings) == "team"
    assert settings.host == "http://127.0.0.1:1"
    assert settings.api_key == {"BearerToken": "Bearer secret-token"}


@pytest.mark.parametrize("text", ["", "current-context: gone\ncontexts: []", "[]"])
async def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"cannot use .*/config"):
        await Access(str(file)).load(client.Configuration())
