"""`doctor` for a person who may not read everything."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_testbed.forge import Fault, ForgeServer
from kubectl_agenttask import DeniedError
from kubectl_agenttask.findings import Level
from kubectl_agenttask.forge_checks import ForgeExamination
from kubectl_agenttask.installation import StoredSecret

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import Plugin

URL = "https://agent.example.com"


class FakeInstallation:
    """A namespace with a token. Without the URL of an Ingress, Ingresses may not be read."""

    namespace = "coding-agent"

    def __init__(self, url: str) -> None:
        self.url = url

    def secret(self, name: str) -> StoredSecret:
        return StoredSecret({"token": BOT_TOKEN}, {})

    def outside_url(self) -> str:
        if not self.url:
            raise DeniedError("the API server does not let you list ingresses")
        return self.url


def test_a_release_that_one_may_not_read_is_unknown(place: Place, plugin: Plugin) -> None:
    said = plugin("doctor", "--kubeconfig", str(place.account()), status=1)
    [line] = [line for line in said.out.splitlines() if line.startswith("unknown  release")]
    assert "does not let you list deployments" in line


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("", "does not let you list ingresses"), (URL, "could not answer (500) while reading the webhooks")],
)
def test_a_webhook_that_cannot_be_read_leaves_what_is_known(
    github_forge: ForgeServer, url: str, sentence: str
) -> None:
    fault = Fault(id="hooks", path=r".*/hooks", status=500, times=None)
    github_forge.run(lambda: github_forge.sandbox.faults.append(fault))
    settings = Settings.model_validate(
        {
            "github": {
                "api_url": github_forge.api_url,
                "personal_access_token": {"files": ["/credentials/github"]},
            },
            "operator": {
                "job": {
                    "credentials": [{"secret": "t", "key": "token", "file": "github", "platform": "github"}]
                }
            },
        }
    )
    place: Any = FakeInstallation(url)
    examination = ForgeExamination(place, settings, (), lambda: datetime.now(UTC))
    found = {one.about: one for one in examination.findings(Platform.GITHUB, [REPOSITORY])}
    assert (found["token"].level, found["repository"].level) == (Level.OK, Level.OK)
    assert found["webhook"].level is Level.UNKNOWN
    assert sentence in found["webhook"].text
