"""Access to the Kubernetes API server: credentials, and requests with a timeout over one connection pool.

Credentials come from `KUBECONFIG`, or the pod's service account, or ~/.kube/config. `kubernetes.aio` reads
and renews them. Requests use `Connections` and plain data, because the generated client and its aiohttp cost
more time than the requests themselves. Watches, and all requests through a proxy, use aiohttp.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.kubernetes.connections import Connections, Response

Body = dict[str, Any]
Query = list[tuple[str, str]]
_T = TypeVar("_T")

OnAnswer = Callable[[str, str], None]
"""Called after every answer with the method and the status, or with `none` if there was no answer."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CONNECTIONS = 100
_LIST_PAGE = 500
"""Objects in a page of a long list, as kubectl asks for (`--chunk-size`): 3 to 5 MB of AgentTasks."""
_LIST_TRIES = 3
_AGENT = {"User-Agent": "coding-agent"}


@dataclass(frozen=True)
class Access:
    """The source of the address and the credentials of a cluster.

    Attributes:
        kubeconfig: the file or files, separated by `:`; `None` for the pod's service account.
    """

    kubeconfig: str | None

    @staticmethod
    def find(environment: Mapping[str, str] = os.environ, account: Path = _SERVICE_ACCOUNT) -> Access:
        """Return where this process finds its credentials for a cluster.

        Raises:
            SettingsError: it has neither a kubeconfig nor a service account.
        """
        if given := environment.get("KUBECONFIG"):
            if not any(Path(file).expanduser().is_file() for file in given.split(os.pathsep)):
                raise SettingsError(f"KUBECONFIG: there is no file {given}")
            return Access(given)
        if environment.get("KUBERNETES_SERVICE_HOST") and (account / "token").is_file():
            return Access(None)
        usual = Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config"
        if usual.is_file():
            return Access(str(usual))
        raise SettingsError(
            "this process has no access to a Kubernetes cluster: run it in a pod with a "
            "service account token, or set KUBECONFIG to a kubeconfig file"
        )

    async def load(self, settings: Any) -> str | None:
        """Read address and credentials into a client `Configuration`. Each call reads them again.

        Returns:
            The namespace of the credentials, if they have one.

        Raises:
            SettingsError: address and credentials cannot be read.
        """
        try:
            if self.kubeconfig is None:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                return _read(_SERVICE_ACCOUNT / "namespace")
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=self.kubeconfig, client_configuration=settings, persist_config=False
            )
            namespace = loader.current_context["context"].get("namespace")
            return str(namespace) if namespace else None
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            # The last errors are here because the client's reader does not check a file's structure.
            where = self.kubeconfig or "the pod's service account"
            raise SettingsError(f"cannot use {where}: {error}") from error


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    """Return a session for watches, without a limit of connections, because each watch keeps one open."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        headers={"Accept": "application/json", **_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        # A watch event contains an object, which can be larger than the usual buffer.
        read_bufsize=2**21,
    )


async def _read_all(answer: aiohttp.ClientResponse) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, headers, await answer.read())


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class Page(NamedTuple):
    """A list of objects, or a part of a list.

    Attributes:
        version: the list's resourceVersion, at which a watch can begin.
        rest: the token with which the next part is read; empty if this is the last part.
    """

    items: list[Body]
    version: str
    rest: str


class ApiError(CodingAgentError):
    """The error if the API server refuses a request or does not answer.

    Attributes:
        status: the HTTP status. It is `None` if there was no answer; then the request may have been executed.
        retry_after: seconds after which the API server asks us to try again, if it does.
    """

    def __init__(self, message: str, status: int | None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def conflict(self) -> bool:
        """Whether the object has changed since it was read, or the name of a new object is taken.

        The API server answers 422 if a JSON patch's `test` fails, but also if an object is invalid.
        """
        return self.status in (409, 422)

    @property
    def uncached(self) -> bool:
        """Whether a list was refused because the API server is filling its cache of all objects of the kind.

        It does so for seconds after each change of their CRD. Single objects are read without the cache
        (https://kep.k8s.io/4568).
        """
        return self.status == 429 and "storage is (re)initializing" in str(self)


@dataclass(eq=False, repr=False)
class ApiServer:
    """The API server, with the credentials of this process. Every request can raise `ApiError`.

    Attributes:
        settings: address and credentials in the form of `kubernetes.aio`.
        timeout: the maximum number of seconds for one request.
        namespace: the namespace of the credentials, if they have one.
        role: the file with the rules that this program needs, for the message if they are missing.
        on_answer: called after every answer.
    """

    settings: Any
    access: Access
    timeout: float
    namespace: str | None
    role: str
    on_answer: OnAnswer

    def __post_init__(self) -> None:
        context = RESTClientObject(self.settings).ssl_context
        self._requests = Connections(
            self.settings.host, _CONNECTIONS, context=context, name=self.settings.tls_server_name
        )
        self._session = _session(context)

    @staticmethod
    async def connect(
        access: Access, timeout: float, *, role: str, on_answer: OnAnswer = lambda *_: None
    ) -> ApiServer:
        """Read the credentials, without sending a request.

        Raises:
            SettingsError: the credentials cannot be read.
        """
        settings = client.Configuration()
        namespace = await access.load(settings)
        return ApiServer(settings, access, timeout, namespace, role, on_answer)

    async def renew(self) -> None:
        """Read the credentials again, because they were replaced or have expired."""
        await self.access.load(self.settings)

    async def aclose(self) -> None:
        await self._requests.aclose()
        await self._session.close()

    async def get(self, path: str) -> Body | None:
        """Return the object's current version, not from a cache; `None` if there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def read_all(self, path: str, query: Query, read: Callable[[Body], _T]) -> tuple[list[_T], str]:
        """Return all current objects that a query selects, and the resourceVersion of the list.

        The list is read in pages, each with the time limit of a request, and all pages are of one state of
        the cluster. If the API server has forgotten this state (410, etcd forgets it after five minutes),
        the list begins again
        (https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks).

        Args:
            read: reads one object, so that no more than a page is kept as JSON.

        Raises:
            ApiError: the API server refused or did not answer; 410 if it forgot the state three times.
        """
        for left in reversed(range(_LIST_TRIES)):
            found: list[_T] = []
            version = ""
            try:
                async for page in self.pages(path, query, _LIST_PAGE):
                    found += map(read, page.items)
                    version = page.version
            except ApiError as error:
                if error.status != 410 or not left:
                    raise
                continue
            break
        return found, version

    async def list(self, path: str, query: Query) -> Page:
        """Return the current objects that a query selects, all of them unless it has a `limit`."""
        found = await self.request("GET", path, query=query)
        metadata = found["metadata"]
        items = found["items"] or []  # an empty list of metadata has null here
        return Page(items, str(metadata["resourceVersion"]), metadata.get("continue") or "")

    async def pages(self, path: str, query: Query, size: int) -> AsyncIterator[Page]:
        """Yield the selected objects in pages of `size`, so that memory does not grow with their number."""
        query = [*query, ("limit", str(size))]
        page = await self.list(path, query)
        yield page
        while page.rest:
            page = await self.list(path, [*query, ("continue", page.rest)])
            yield page

    async def merge(self, path: str, patch: Body) -> Body | None:
        """Apply a merge patch; return `None` if the object is gone or has changed since it was read."""
        try:
            return await self.request("PATCH", path, body=patch, kind=MERGE_PATCH)
        except ApiError as error:
            # 409 means that another object has the name (its uid differs), or that the version is another.
            if error.status in (404, 409):
                return None
            raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Query | None = None,
        kind: str = "application/json",
    ) -> Body:
        target = path + ("?" + urlencode(query) if query else "")
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            answer = await self._answer(method, target, await self._headers(kind), data)
        except _BROKEN as error:
            self.on_answer(method, "none")
            raise _unanswered(method, path, error) from error
        self.on_answer(method, str(answer.status))
        if answer.status >= 300:
            raise self._refusal(method, path, answer)
        return _parsed(answer.body)

    async def watch(self, path: str, query: Query, seconds: int) -> AsyncIterator[Body]:
        """Yield the events since the `resourceVersion` in the query, for some seconds.

        Raises:
            ApiError: the watch was refused or broke off, or the version is too old (410).
        """
        target = path + "?" + urlencode([*query, ("watch", "true"), ("timeoutSeconds", str(seconds))])
        answer = None
        try:
            headers = await self._headers("application/json")
            answer = await self._send("GET", target, headers, None, seconds + self.timeout)
            self.on_answer("WATCH", str(answer.status))
            if answer.status >= 300:
                raise self._refusal("GET", path, await _read_all(answer))
            rest = b""
            async for chunk in answer.content.iter_any():
                # We split lines here, because a pod's line can be longer than `readline` accepts.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _parsed(line)
                    if event.get("type") == "ERROR":
                        problem = event.get("object") or {}
                        raise ApiError(
                            f"the watch of {path} ended: {problem.get('message')}", problem.get("code")
                        )
                    yield event
        except _BROKEN as error:
            raise _unanswered("WATCH", path, error) from error
        finally:
            if answer is not None:
                answer.close()

    async def _headers(self, kind: str) -> dict[str, str]:
        headers = {**_AGENT, "Content-Type": kind}
        # This also renews the token, e.g. that of the service account, which the kubelet replaces.
        if token := await self.settings.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        return headers

    async def _answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None
    ) -> Response:
        if self.settings.proxy:
            return await _read_all(await self._send(method, target, headers, body, self.timeout))
        return await self._requests.request(method, target, headers, body, self.timeout)

    async def _send(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None, seconds: float
    ) -> aiohttp.ClientResponse:
        return await self._session.request(
            method,
            URL(self.settings.host + target, encoded=True),
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
            server_hostname=self.settings.tls_server_name,
            proxy=self.settings.proxy,
            proxy_headers=self.settings.proxy_headers,
        )

    def _refusal(self, method: str, path: str, answer: Response) -> ApiError:
        seconds, said = answer.headers.get("retry-after", ""), _said(answer.body)
        return ApiError(
            f"the Kubernetes API server answers {method} {path} with {answer.status}: {said}"
            + self._hint(answer.status, said),
            answer.status,
            float(seconds) if seconds.isdigit() else None,
        )

    def _hint(self, status: int, said: str) -> str:
        if status == 403 and "User " not in said:
            return ""  # a quota, Pod Security or another policy, which the message names
        return {
            401: "; its credentials are invalid or have expired",
            403: f"; its service account needs the rules of {self.role} in this namespace",
            404: "; is crds/agenttask.yaml applied, and does the namespace exist?",
        }.get(status, "")


_BROKEN = (TimeoutError, aiohttp.ClientError, OSError, asyncio.IncompleteReadError)


def _unanswered(method: str, path: str, error: Exception) -> ApiError:
    reason = str(error) or type(error).__name__
    return ApiError(f"the Kubernetes API server does not answer {method} {path}: {reason}", None)


def _parsed(data: bytes) -> Body:
    try:
        result = json.loads(data)
    except ValueError as error:
        raise ApiError("the answer is not JSON: check the API server's address", None) from error
    if not isinstance(result, dict):
        raise ApiError("the answer is not a JSON object: check the API server's address", None)
    return result


def _said(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message"))[:500]
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace").strip()
