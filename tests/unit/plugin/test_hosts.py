"""The pod of `init`."""

from coding_agent_core.settings.job_settings import WORKSPACE_USERS
from kubectl_agenttask.cluster_client import init_pod


def test_the_pod_runs_as_a_user_of_workspaces() -> None:
    assert (
        init_pod("registry.example.com/team/toolchain:1")["spec"]["securityContext"]["runAsUser"]
        in WORKSPACE_USERS
    )
