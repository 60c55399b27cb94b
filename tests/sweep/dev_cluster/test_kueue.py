"""What of Kueue's manifest is installed beside a control plane without a node."""

from __future__ import annotations

from typing import Any

from coding_agent_cluster.kueue import crds, installed

SERVICE = {"service": {"name": "kueue-webhook-service", "namespace": "kueue-system", "path": "/there"}}
HERE = {"url": "https://127.0.0.1:1/there"}


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, **more}


def test_webhooks_are_called_by_address_and_nothing_waits_for_a_pod() -> None:
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": dict(SERVICE)}}
    manifest = [
        named("CustomResourceDefinition", "workloads", spec={"conversion": conversion}),
        named("CustomResourceDefinition", "topologies", spec={}),
        named("MutatingWebhookConfiguration", "m", webhooks=[{"clientConfig": dict(SERVICE)}]),
        named("Secret", "kueue-webhook-server-cert"),
        named("Secret", "another"),
        *(named(kind, "gone") for kind in ("Deployment", "Service", "APIService")),
    ]
    assert crds(manifest) == ["workloads", "topologies"]
    found = {entry["metadata"]["name"]: entry for entry in installed(manifest, 1, {"ca.crt": "x"})}
    assert list(found) == ["workloads", "topologies", "m", "kueue-webhook-server-cert", "another"]
    assert found["workloads"]["spec"]["conversion"]["webhook"]["clientConfig"] == HERE
    assert found["m"]["webhooks"] == [{"clientConfig": HERE}]
    assert found["kueue-webhook-server-cert"]["data"] == {"ca.crt": "x"}
    assert "data" not in found["another"]
