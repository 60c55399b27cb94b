"""The token service as the chart runs it: a process, and an API server that knows ServiceAccounts."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import yaml
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.token_credential import TokenCredential, signed
from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until

from tests.fixtures.accounts import until_may
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.company_proxy import CompanyProxy
from tests.fixtures.forge import REPOSITORY
from tests.fixtures.github_app import app_settings, create_app, install, key_pair
from tests.fixtures.token_service import KEY

# Time for a control plane that may have to be built first.
pytestmark = pytest.mark.timeout(900)


def account_token(plane: PlaneUnderTest, namespace: str, name: str, audience: str | None) -> str:
    """A token as the kubelet projects it."""
    spec = {"expirationSeconds": 3600, **({"audiences": [audience]} if audience else {})}
    answer = plane.core.create_namespaced_service_account_token(
        name, namespace, {"spec": spec}, _request_timeout=60
    )
    return str(answer.status.token)


def test_each_account_gets_what_the_service_was_told(
    control_plane: PlaneUnderTest,
    namespace: str,
    github_forge: ForgeServer,
    company_proxy: CompanyProxy,
    tmp_path: Path,
) -> None:
    plane = control_plane
    for name in ("tokens", "reporter", "stranger"):
        plane.kubectl("-n", namespace, "create", "serviceaccount", name)
    role = f"{namespace}-tokens"
    plane.kubectl(
        "create", "clusterrole", role, "--verb=create", "--resource=tokenreviews.authentication.k8s.io"
    )
    subject = f"--serviceaccount={namespace}:tokens"
    plane.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", subject)
    right = {"group": "authentication.k8s.io", "resource": "tokenreviews", "verb": "create"}
    until_may(plane, "tokens", "", right, home=namespace)
    access = yaml.safe_load(plane.kubeconfig.read_text(encoding="utf-8"))
    access["users"][0]["user"] = {"token": account_token(plane, namespace, "tokens", None)}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(access), encoding="utf-8")

    app = create_app(github_forge)
    install(github_forge, app)
    host = app_settings(github_forge, app, tmp_path / "key.pem").host
    port, metrics_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    section = {
        "app_id": app.id,
        "private_key_file": str(tmp_path / "key.pem"),
        "service": {"url": url, "key": KEY},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"github": {"api_url": github_forge.api_url, "app": section}}))
    log = tmp_path / "log"
    arguments = ("--config", str(config), "--port", str(port), "--metrics-port", str(metrics_port))
    reporter = f"system:serviceaccount:{namespace}:reporter=report"
    with log.open("wb") as out:
        program = subprocess.Popen(
            [sys.executable, "-m", "coding_agent_tokens", *arguments, "--account", reporter],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), **company_proxy.variables},
        )

    def healthy() -> bool:
        assert program.poll() is None, log.read_text()
        try:
            return httpx2.get(f"{url}/health", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def ask(credential: str, repository: str = REPOSITORY) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {credential}"}
        return httpx2.post(f"{url}/v1/token", json={"repository": repository}, headers=headers, timeout=60)

    try:
        until("the service is healthy", healthy, timeout=120)
        given = ask(account_token(plane, namespace, "reporter", "coding-agent-tokens"))
        assert given.status_code == 200, log.read_text()
        attempt = TokenCredential(
            job="acme-pricing-1-1",
            host=host,
            repository=REPOSITORY,
            purpose=Purpose.ATTEMPT,
            expires=datetime.now(UTC) + timedelta(hours=1),
        )
        own = ask(signed(attempt, KEY))
        assert own.status_code == 200
        assert own.json()["token"] != given.json()["token"]
        assert ask(signed(attempt, KEY), "acme/other").status_code == 403
        assert ask(account_token(plane, namespace, "reporter", None)).status_code == 401, "for the API server"
        assert ask(account_token(plane, namespace, "stranger", "coding-agent-tokens")).status_code == 401
        until("the proxy has written its log", company_proxy.asked)
        assert company_proxy.asked() <= {"GET:127.0.0.1", "POST:127.0.0.1"}, "no tunnel to the API server"
        text = log.read_text()
        line = key_pair()[0].splitlines()[3]
        for secret in (given.json()["token"], own.json()["token"], line, KEY):
            assert secret not in text
        metrics = httpx2.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60).text
        assert 'coding_agent_token_requests_total{result="Given"} 2.0' in metrics
        assert 'coding_agent_token_requests_total{result="CallerUnknown"} 2.0' in metrics
        program.send_signal(signal.SIGTERM)
        program.wait(60)
    finally:
        program.kill()
        program.wait(60)
