"""The reporter as a process, under an account with nothing but its own rights."""

import re
from pathlib import Path
from typing import Self

from coding_agent_testbed.until import until

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.world import ServedProgram

ROOT = Path(__file__).parents[3]


def account(plane: PlaneUnderTest, namespace: str, folder: Path) -> Path:
    """A kubeconfig of the reporter's account, with nothing but what `deploy/reporter-role.yaml` gives."""
    return accounts.account(plane, "operator/deploy/reporter-role.yaml", namespace, folder)


POD = "coding-agent-reporter-5d8f7"


class Reporter(ServedProgram):
    """The reporter as a process.

    Args:
        pod: the name of the pod that it takes itself to be in. After a kill, it continues there without
            waiting for its own Lease.
    """

    mode = "reporter"

    def __init__(self, kubeconfig: Path, config: Path, pod: str = POD) -> None:
        super().__init__(kubeconfig, config)
        self.pod = pod
        self._environment |= {
            "POD_NAME": pod,
            "POD_ID": pod,
            "POD_UID": "0b4a8d0e-6a31-4c0c-a6f8-3f3d1a7c9e55",
        }

    def metric(self, name: str) -> float:
        """The value of a metric, named with its labels as Prometheus reads it."""
        _, text = self.probe("/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is missing"
        return float(found[1])

    def ready(self) -> Self:
        until("the reporter is ready", lambda: self.probe("/readyz")[0] == 200)
        return self
