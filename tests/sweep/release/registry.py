"""A real OCI registry, distribution, with its data in one folder."""

import json
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from coding_agent_testbed.cluster import build
from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.until import until

MANIFESTS = ", ".join(
    ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
)


class Registry:
    """It listens on all addresses, because pods reach it on the node's side of the host.

    Attributes:
        port: the port.
        host: the name by which programs on this machine know it.
    """

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        self.host = f"127.0.0.1:{self.port}"
        self._log = folder / "registry.log"
        self._config = folder / "registry.json"
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": f":{self.port}"},
        }
        self._config.write_text(json.dumps(config))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx2.Client(base_url=f"http://{self.host}/v2/", timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        command = [str(build.binaries(["registry"])["registry"]), "serve", str(self._config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={"OTEL_TRACES_EXPORTER": "none"}, start_new_session=True
            )
        until(lambda: f"the registry answers:\n{self._log.read_text()[-2000:]}", self._answers, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def digest(self, repository: str, reference: str) -> str:
        """The digest of what the registry has under a tag or a digest."""
        answer = self._client.head(f"{repository}/manifests/{reference}", headers={"accept": MANIFESTS})
        answer.raise_for_status()
        return answer.headers["docker-content-digest"]

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        """The manifest that the registry has under a tag or a digest."""
        answer = self._client.get(f"{repository}/manifests/{reference}", headers={"accept": MANIFESTS})
        answer.raise_for_status()
        manifest: dict[str, Any] = answer.json()
        return manifest

    def put(self, repository: str, reference: str, manifest: dict[str, Any]) -> httpx2.Response:
        """Put a manifest under a tag or a digest, as somebody may who can write to the registry."""
        headers = {"content-type": str(manifest["mediaType"])}
        content = json.dumps(manifest).encode()
        return self._client.put(f"{repository}/manifests/{reference}", content=content, headers=headers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self._client.get("").status_code == 200
        except httpx2.TransportError:
            return False
