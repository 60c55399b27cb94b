"""Using a cluster: its kubeconfig with kubectl and the Python client, whoever runs the cluster."""

import json
import os
import re
import subprocess
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from kubernetes import client, config

from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.until import until

# Long enough for `kubectl wait` and `rollout status` with their own, shorter timeouts.
_KUBECTL_TIMEOUT_S = 120.0
_ESTABLISHED_TIMEOUT_S = 90.0
# Within it an API server is up again that was killed, or that refuses lists while a resource changes.
_AGAIN_S = 20.0
# What kubectl prints when it did not get through, or the server's answer is "not now".
_TRANSIENT = re.compile(
    r"\bwas refused\b|connection refused|connection reset|connection lost|broken pipe|\bEOF\b|i/o timeout"
    r"|GOAWAY|TLS handshake timeout|deadline exceeded|Client\.Timeout|no route to host|network is unreachable"
    r"|\((?:InternalError|ServerTimeout|ServiceUnavailable|Timeout|TooManyRequests)\)|etcdserver: "
)


class KubectlError(ClusterError):
    """A kubectl command that did not succeed; ``stderr`` is what it said."""

    def __init__(self, arguments: tuple[str, ...], stderr: str, *, timed_out: bool = False) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {stderr.strip()}")
        self.stderr = stderr
        self._timed_out = timed_out

    @property
    def is_transient(self) -> bool:
        """Whether the server did not answer, or not now."""
        return self._timed_out or _TRANSIENT.search(self.stderr) is not None


class Access:
    """A kubeconfig and the ways to use it."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    @cached_property
    def api_client(self) -> Any:
        """The Python client's ``ApiClient`` for this cluster."""
        return config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]

    @cached_property
    def core(self) -> Any:
        """The Python client's ``CoreV1Api``."""
        return client.CoreV1Api(self.api_client)

    @cached_property
    def batch(self) -> Any:
        """The Python client's ``BatchV1Api``."""
        return client.BatchV1Api(self.api_client)

    @cached_property
    def custom(self) -> Any:
        """The Python client's ``CustomObjectsApi``."""
        return client.CustomObjectsApi(self.api_client)

    def environment(self) -> dict[str, str]:
        """This process' environment with ``KUBECONFIG`` set, for programs such as helm."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, stdin: str = "", timeout: float = _KUBECTL_TIMEOUT_S) -> str:
        """Run kubectl and return what it prints.

        Raises:
            KubectlError: it did not succeed, or took more than ``timeout`` seconds.
        """
        try:
            run = subprocess.run(
                [str(self._kubectl), *arguments],
                input=stdin,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(arguments, f"took more than {timeout:g} s", timed_out=True) from error
        if run.returncode:
            raise KubectlError(arguments, run.stderr)
        return run.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply of the objects.

        Raises:
            KubectlError: the server refuses one.
        """
        listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self._surely("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=listing)

    def wait_until_established(self, *crds: str) -> None:
        """Wait until the API server serves these custom resources, by the names of their definitions.

        ``kubectl wait`` fails on a definition that is so new that its conditions are null.

        Raises:
            KubectlError: there is no such definition.
            NotReadyError: one is not served in time.
        """

        def established() -> bool:
            found = [self.get("crd", name).get("status", {}).get("conditions") or [] for name in crds]
            return all(
                any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)
                for conditions in found
            )

        until(f"{', '.join(crds)} established", established, timeout=_ESTABLISHED_TIMEOUT_S, interval=0.1)

    def get(self, *arguments: str) -> Any:
        """``kubectl get ... -o json`` as data.

        Raises:
            KubectlError: there is no such object.
        """
        return json.loads(self._surely("get", *arguments, "-o", "json"))

    def _surely(self, *arguments: str, stdin: str = "") -> str:
        """kubectl for what may be done twice: again while the server does not answer, or not now."""
        end = time.monotonic() + _AGAIN_S
        while True:
            try:
                return self.kubectl(*arguments, stdin=stdin)
            except KubectlError as error:
                if not error.is_transient or time.monotonic() > end:
                    raise
            time.sleep(0.5)
