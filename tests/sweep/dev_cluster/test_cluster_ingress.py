"""An Ingress with TLS leads to a service, as the chart's does."""

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from coding_agent_cluster import cluster as local
from coding_agent_cluster import ingress
from coding_agent_cluster.commands import run
from coding_agent_cluster.wait import until

from tests.e2e.pods import server

pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

HOST = "web.example.test"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for HOST, with its key in the same folder."""
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt")]
    run(["openssl", "req", "-x509", "-days", "2", *key, *subject, *files])
    return tmp_path / "tls.crt"


def https_get(address: str, certificate: Path) -> str:
    """What https://HOST/ answers at that address; the certificate must be this very one."""
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection((address, 443), timeout=3) as connection,
        context.wrap_socket(connection, server_hostname=HOST) as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(secure)
        response.begin()
        body = response.read().decode()
        if response.status != 200:
            raise OSError(f"{response.status} {body}")
        return body


def test_an_ingress_with_tls_leads_to_its_service(
    own_cluster: local.Cluster, namespace: str, test_image: str, certificate: Path
) -> None:
    ingress.enable(own_cluster)
    kubectl = own_cluster.access.kubectl
    key = certificate.with_name("tls.key")
    kubectl("-n", namespace, "create", "secret", "tls", "tls", f"--cert={certificate}", f"--key={key}")
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    route = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {
            "tls": [{"hosts": [HOST], "secretName": "tls"}],
            "rules": [{"host": HOST, "http": {"paths": [path]}}],
        },
    }
    objects = {"apiVersion": "v1", "kind": "List", "items": [*server("web", test_image), route]}
    kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(objects))
    address = own_cluster.network.address
    answer = until("the Ingress", lambda: https_get(address, certificate), timeout=120, interval=0.2)
    assert answer.startswith("hello from web")

    def stands() -> Any:
        return own_cluster.access.get("-n", namespace, "ingress", "web")["status"]["loadBalancer"].get(
            "ingress"
        )

    assert until("its status", stands, timeout=60, interval=0.2) == [{"ip": address}]
