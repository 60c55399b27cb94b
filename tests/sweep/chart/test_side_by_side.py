"""Two teams, two releases, two namespaces: neither may see the other's tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chart.release import Release
from tests.fixtures.accounts import until_may
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import until_served

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

LIST = {"group": "coding-agent.dev", "resource": "agenttasks", "verb": "list"}


def test_two_releases_in_two_namespaces_do_not_meet(
    control_plane: PlaneUnderTest, namespace: str, new_namespace: Callable[[str], str]
) -> None:
    values = {"secrets": {"github": {"token": "never-used"}, "model": {"apiKey": "never-used"}}}
    first = Release(control_plane, namespace, values)
    second = Release(control_plane, new_namespace("restricted"), values)
    first.take_crd()
    first.install()
    second.install({"crds": {"install": False}})
    for program in ("coding-agent-receiver", "coding-agent-operator"):
        for release in (first, second):
            until_may(control_plane, program, release.namespace, LIST)
        for other, account in ((first, second), (second, first)):
            until_may(control_plane, program, other.namespace, LIST, may=False, home=account.namespace)
    secrets = [release.get("secret", "coding-agent-webhook")["data"] for release in (first, second)]
    assert secrets[0] != secrets[1]
    second.helm("uninstall", second.name)
    until_may(control_plane, "coding-agent-receiver", second.namespace, LIST, may=False)
    until_may(control_plane, "coding-agent-receiver", first.namespace, LIST)
    assert first.get("deployment", "coding-agent-receiver"), "the first is still whole"
    until_served(control_plane)  # for the tests that follow
