"""Asking the API server with nothing but the standard library: for readiness, before any client is set up."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster.errors import ClusterError

_TIMEOUT_S = 5.0


class Api:
    """The API server as the administrator, with the certificates of a cluster's ``pki`` folder."""

    def __init__(self, url: str, pki: Path) -> None:
        self._url = url
        self._pki = pki
        self._context: ssl.SSLContext | None = None

    def get(self, path: str) -> Any:
        """The JSON (or text) at that path, None when there is no such object.

        Raises:
            OSError: the server does not answer, or not with 2xx or 404 (HTTPError is an OSError).
        """
        return self._ask("GET", path)

    def is_ready(self) -> bool:
        """Whether /readyz answers 200.

        Raises:
            OSError: the server does not answer, or says what is not ready.
        """
        return self._ask("GET", "/readyz") is not None

    def apply(self, path: str, body: dict[str, Any]) -> Any:
        """Server-side apply of one object at its path.

        Raises:
            ClusterError: the server refuses it; the message is the server's.
            OSError: the server does not answer.
        """
        try:
            return self._ask("PATCH", f"{path}?fieldManager=coding-agent-cluster&force=true", body)
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{path}: {error.read().decode(errors='replace')[:1000]}") from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(self._url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/apply-patch+yaml")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._tls()) as answer:
                content = answer.read()
                if answer.headers.get_content_type() == "application/json":
                    return json.loads(content)
                return content.decode()
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "GET":
                return None
            raise

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
            self._context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        return self._context
