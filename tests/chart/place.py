"""The chart on the real node, with sandbox forge and scripted model on this machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coding_agent_testbed.forge.model import Item, Kind
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.model.server import ModelServer

from tests.chart.edge import certificate
from tests.chart.release import Release
from tests.fixtures.cluster import ClusterUnderTest, attempt_runtime
from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, REPOSITORY, SECRET, over, sample_repository
from tests.fixtures.system_in_pods import SMALL, host_address

DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
_LITTLE = {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}


def node_values(images: dict[str, str]) -> dict[str, Any]:
    """Where the images are, and requests that let several releases fit on a machine of two cores."""
    registry, _, rest = images["receiver"].rpartition("/")
    return {
        "image": {"registry": registry, "tag": rest.rpartition(":")[2]},
        "receiver": {**_LITTLE, "preStopSeconds": 5, "autoscaling": {"enabled": False}},
        "operator": _LITTLE,
        "reporter": _LITTLE,
        "polling": _LITTLE,
        "userConfig": _LITTLE,
    }


@dataclass
class Place:
    """A forge, a model, and the release that serves them."""

    release: Release
    forge: ForgeServer
    model: ModelServer
    folder: Path

    @property
    def flavour(self) -> str:
        """`github` or `gitlab`."""
        return self.forge.flavour.value

    def labels(self, number: int = 1) -> set[str]:
        return self.forge.labels(REPOSITORY, number)

    def changes(self) -> list[Item]:
        return [item for item in self.forge.repository(REPOSITORY).items if item.kind is Kind.CHANGE]

    def comments(self, number: int = 1) -> list[str]:
        """The bodies of an issue's comments, without GitLab's system notes."""
        return [
            comment.body for comment in self.forge.item(REPOSITORY, number).comments if not comment.system
        ]

    def reactions(self, number: int = 1) -> set[str]:
        comments = self.forge.item(REPOSITORY, number).comments
        return {reaction.name for comment in comments for reaction in comment.reactions}


def place(
    stack: ExitStack,
    cluster: ClusterUnderTest,
    namespace: str,
    images: dict[str, str],
    folder: Path,
    flavour: str,
    scripts: Sequence[Script],
    authority: str = "",
    seed: dict[str, Any] | None = None,
) -> Place:
    """Start forge and model; the release is not installed yet.

    Args:
        authority: name for a ConfigMap. With it the forge speaks TLS, with a certificate that only the
            authority in this ConfigMap vouches for, and the release is told to trust that.
        seed: of the forge; `None`: one repository with one issue.
    """
    address = host_address(cluster)
    own = _certificate(folder / "authority", address) if authority else None
    forge = stack.enter_context(
        ForgeServer(
            flavour, seed or sample_repository(), folder / "repositories", host=address, certificate=own
        )
    )
    model = stack.enter_context(ModelServer(list(scripts), api_key=MODEL_KEY, host=address))
    network = [f"{address}/32"]
    values = {
        "secrets": {
            "webhook": {flavour: SECRET},
            flavour: {"token": BOT_TOKEN},
            "model": {"apiKey": MODEL_KEY},
        },
        "config": {
            flavour: {"api_url": forge.api_url},
            "llm": {"openai": {"base_url": model.base_url, "model": "scripted"}},
            "operator": {"job": {**SMALL, **attempt_runtime()}},
        },
        # Both are in a private network, which attempts may only enter where it is named.
        "networkPolicy": {
            "forge": {"cidrs": network, "ports": [forge.port]},
            "model": {"cidrs": network, "ports": [int(model.base_url.rsplit(":", 1)[1].split("/")[0])]},
        },
    }
    release = Release(cluster, namespace, over(node_values(images), values))
    release.take_crd()
    if own is not None:
        file = own.with_name("tls.crt")
        release.kubectl("create", "configmap", authority, f"--from-file=ca-certificates.crt={file}")
        release.values["trustedCertificates"] = {"configMap": authority}
    return Place(release, forge, model, folder)


def _certificate(folder: Path, address: str) -> Path:
    """A file of a certificate for that address and its key."""
    folder.mkdir()
    made = certificate(folder, f"IP:{address}")
    both = folder / "both.pem"
    both.write_text(made.read_text() + made.with_name("tls.key").read_text())
    return both
