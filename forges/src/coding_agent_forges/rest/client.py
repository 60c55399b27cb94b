"""The HTTP client for all forges: authentication, rate limits, retries, redirects, errors, validation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, Protocol, TypeVar, get_origin
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import getproxies

import httpx2
from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRejectedError,
    ForgeUnavailableError,
    RequestKind,
    SettingsError,
    TokenMissingError,
)
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry
from coding_agent_core.runtime.tls import client_context
from coding_agent_core.settings.section import Secrets
from pydantic import TypeAdapter, ValidationError

from coding_agent_forges.rest.calls import PAGE_SIZE, Call, Read, Repeat, ResponseModel, User, path
from coding_agent_forges.rest.pacing import Paced, forge_error, rate_limited

_logger = logging.getLogger("coding_agent.forge")
_T = TypeVar("_T")

TIMEOUT = 10.0
"""Maximum number of seconds for connecting, and between two parts of an answer."""
_SENDING = 0.8
"""The part of `TIMEOUT` for which Linux sends data again that the other end does not acknowledge."""
TOTAL_TIMEOUT = 30.0
"""Maximum number of seconds for one request from first to last byte, however slowly the answer arrives."""
_REDIRECTS = 3
_LONGEST = 64 * 2**20
"""Maximum number of bytes of an answer of which only the end is kept."""
_LOG_BYTES = 64 * 1024
"""The number of bytes that are kept of the end of a log."""
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_REPEATED = (301, 307, 308)
"""The statuses of a redirect after which any request is sent again as it was. For a renamed repository,
GitHub answers reads with 301 and the rest with 307, and Gitea everything with 301."""
_ISSUED_KEPT = 1000
"""A token of an App lives for an hour, so older ones are worthless long before they are forgotten."""
_issued: deque[str] = deque(maxlen=_ISSUED_KEPT)
"""The tokens that this process got while it runs, so that its logs and transcripts can leave them out."""
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


class _Repository(ResponseModel):
    id: int
    full_name: str

    def holds(self, target: str) -> bool:
        """Whether an address of the REST API is below this repository's."""
        found = re.search(r"/(?:repositories/(\d+)|repos/([^/]+/[^/]+))(?:/|$)", urlsplit(target).path)
        if found is None:
            return False
        return found[1] == str(self.id) or unquote(found[2] or "").lower() == self.full_name.lower()


def remember_token(token: str) -> None:
    """Remember a token that was issued to this process."""
    if token not in _issued:
        _issued.append(token)


def issued_tokens() -> tuple[str, ...]:
    """Return the newest tokens that were issued to this process, including those that were replaced."""
    return tuple(_issued)


class TokenSource(Protocol):
    """The source of the token that is sent with each request.

    Attributes:
        place: where a person sets the credential, for messages.
    """

    place: str

    async def current(self, repository: str, refused: str = "") -> str:
        """Return the token to send now, a new one if the last one is about to expire.

        Args:
            repository: the path of the repository that the request is about; empty if it is about none.
            refused: a token that the forge does not accept (401), e.g. because somebody revoked it. It is
                returned again if there is no other.

        Raises:
            SettingsError: no credential is configured, or it cannot be read.
            ForgeError: a new token is needed, and the forge did not issue one.
        """

    async def account(self) -> User | None:
        """Return the token's account; `None` if only the forge knows it.

        Raises:
            SettingsError: no credential is configured, or it cannot be read.
            ForgeError: the forge did not say whose token it is.
        """

    async def identity(self) -> str:
        """Return a text that changes if the token may belong to another account; never the token itself.

        Raises:
            SettingsError: no credential is configured, or it cannot be read.
            ForgeError: a new token is needed, and the forge did not issue one.
        """

    async def aclose(self) -> None:
        """Close the connections that the source has opened."""


@dataclass
class Token:
    """The personal token of one platform's configured installation, read again when its file changes.

    Attributes:
        title: the platform's name for people.
        place: where a person sets the token, for messages.
    """

    title: str
    secrets: Secrets = field(repr=False)
    place: str

    async def current(self, repository: str, refused: str = "") -> str:
        return self.read()

    async def account(self) -> None:
        return None

    async def aclose(self) -> None:
        pass

    async def identity(self) -> str:
        """Return a hash of the token, because a different token may belong to a different account."""
        return hashlib.sha256(self.read().encode()).hexdigest()

    def read(self) -> str:
        """Return the configured token.

        Raises:
            SettingsError: no token is configured.
            TokenMissingError: the token's file is absent or empty.
        """
        value = self.secrets.first()
        if value is None:
            files = ", ".join(str(file) for file in self.secrets.settings.files)
            unreadable = f" ({files} cannot be read or is empty)" if files else ""
            raise (TokenMissingError if files else SettingsError)(
                f"No token for {self.title}{unreadable}: set {self.place}."
            )
        return value


@dataclass
class Pages(Generic[_T]):
    """The pages of a list, read one by one.

    Attributes:
        complete: whether no page is left, once all pages were taken.

    Example:
        pages = client.pages(list[Label], call, limit=10)
        async for page in pages:
            ...
        if not pages.complete:
            ...
    """

    read: Callable[[Pages[_T]], AsyncIterator[_T]]
    complete: bool = False

    def __aiter__(self) -> AsyncIterator[_T]:
        return self.read(self)


@dataclass(frozen=True)
class _Page(Generic[_T]):
    """One page of a list, with the facts that the forge states about the whole list.

    Attributes:
        size: the number of entries; 0 if the answer is not a list.
        last: the number of the last page; `None` if the forge does not state it.
        total: the number of entries of the whole list; `None` if the forge does not state it.
    """

    content: _T
    raw: bytes
    links: Mapping[str | None, Mapping[str, str]]
    total: int | None

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, list) else 0

    @property
    def last(self) -> int | None:
        shown = parse_qs(urlsplit(self.links.get("last", {}).get("url", "")).query).get("page", [""])[0]
        return int(shown) if shown.isdigit() else None

    def has_next(self, number: int, largest: int) -> bool:
        """Whether there is a further page.

        Args:
            number: the number of this page.
            largest: the number of entries of the largest page so far. An administrator may allow fewer than
                we ask for.
        """
        if self.links:
            return "next" in self.links
        # An empty page is not the end on Gitea, which leaves entries out after it has cut the list into
        # pages. It sends no links, but states the total of most lists.
        if self.total is not None:
            return number * (largest or PAGE_SIZE) < self.total
        return self.size >= PAGE_SIZE


@dataclass
class ForgeClient:
    """The HTTP client of one forge.

    Attributes:
        host: the host's name in error messages.
        headers: the headers of every request.
        pace: limits the rate of all requests, including repeated and redirected ones; `None` for no limit.
        transport: replaces the network in tests.
        page_size: the most entries that the forge puts into a page; `None` until it was asked.
        account: the login of the token's account, for messages; empty until it is known.
        redirected: the paths, in lower case, of repositories whose requests were redirected, most likely
            because the repositories were renamed.
    """

    host: str
    api_url: str
    token: TokenSource
    headers: Mapping[str, str]
    policy: RetryPolicy
    clock: Clock
    pace: Paced | None = None
    transport: httpx2.AsyncBaseTransport | None = None
    page_size: int | None = None
    account: str = field(default="", init=False)
    redirected: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._pool: httpx2.AsyncClient | None = None
        self._repositories: dict[str, _Repository] = {}

    async def get(self, type_: type[_T], call: Call) -> _T:
        return self.parse(type_, await self.send(call), call)

    async def send(self, call: Call) -> httpx2.Response:
        """Send the request, and retry it if this is safe and can help.

        Raises:
            ForgeError: the last answer was an error, or there was no answer.
        """

        def log(error: BaseException, wait: float, tried: int) -> None:
            _logger.info("%s; retrying in %.1f s (%d of %d)", error, wait, tried + 1, self.policy.tries)

        return await retry(
            lambda: self._try(call),
            self.policy,
            self.clock,
            retryable=lambda error: isinstance(error, ForgeError) and error.repeatable,
            before_wait=log,
        )

    def pages(self, type_: type[_T], call: Call, *, limit: int) -> Pages[_T]:
        """Return at most `limit` pages of a list."""

        async def read(pages: Pages[_T]) -> AsyncIterator[_T]:
            largest, before = 0, b""
            for number in range(1, limit + 1):
                page = await self._page(type_, call, number)
                if number > 1 and page.size and page.raw == before:
                    pages.complete = True  # the forge ignores the number: each answer has the whole list
                    return
                largest, before = max(largest, page.size), page.raw
                pages.complete = not page.has_next(number, largest)
                yield page.content
                if pages.complete:
                    return

        return Pages(read)

    async def entries(self, type_: type[list[_T]], call: Call, *, limit: int = 1) -> Read[_T]:
        """Return the entries of at most `limit` pages of a list."""
        pages = self.pages(type_, call, limit=limit)
        found = tuple([entry async for page in pages for entry in page])
        return Read(found, () if pages.complete else (f"what comes after {len(found)} entries",))

    def newest_first(self, type_: type[list[_T]], call: Call, *, limit: int) -> Pages[list[_T]]:
        """Return at most `limit` pages, the last one first, of a list that the forge sorts oldest first.

        Entries beyond the limit are the oldest. If the forge does not state the number of the last page
        (GitLab, for more than 10,000 entries) and the list is longer than the limit, no page is returned.
        """

        async def read(pages: Pages[list[_T]]) -> AsyncIterator[list[_T]]:
            first = await self._page(type_, call, 1)
            last = first.last
            if last is None and first.has_next(1, first.size):
                forward = self.pages(type_, call, limit=limit)
                found = [page async for page in forward]
                pages.complete = forward.complete
                # The newest entries may be out of reach. Older ones alone would look like the newest.
                for page in reversed(found if forward.complete else []):
                    yield page
                return
            last = last or 1
            for number in range(last, max(1, last - limit), -1):
                yield (await self._page(type_, call, number)).content
            pages.complete = last <= limit
            if last <= limit:
                yield first.content

        return Pages(read)

    async def _page(self, type_: type[_T], call: Call, number: int) -> _Page[_T]:
        numbered = replace(call, params={**call.params, "per_page": PAGE_SIZE, "page": number})
        response = await self.send(numbered)
        total = response.headers.get("x-total-count", "")
        return _Page(
            self.parse(type_, response, numbered),
            response.content,
            response.links,
            int(total) if total.isdigit() else None,
        )

    async def log(self, call: Call, marks: re.Pattern[str]) -> str:
        """Return the end of a log as plain text; empty if the log has expired or we may not read it.

        Args:
            marks: matches the marks that the forge itself writes into logs.
        """
        try:
            return log_text(await self.end_of(call, _LOG_BYTES), marks)
        except ForgeError as error:
            _logger.info("%s", error)
            return ""

    async def end_of(self, call: Call, limit: int, *, with_token: bool = True) -> bytes:
        """Return the last `limit` bytes of an answer, e.g. of a log.

        A redirect to another host is followed without our token. The request is not repeated after a failure.

        Raises:
            ForgeError: there is no complete answer within `TOTAL_TIMEOUT` and `_LONGEST`.
        """
        url = call.path
        headers = self._headers(await self.token.current(call.about)) if with_token else {}
        end = bytearray()
        size = 0
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                for _ in range(_REDIRECTS + 1):
                    if self.pace is not None:
                        await self.pace.turn(RequestKind.READ)
                    async with self._client().stream("GET", url, headers=headers) as response:
                        if response.next_request is not None:
                            target = str(response.next_request.url)
                            # Forges keep logs in object stores, whose signed addresses need no token.
                            if _origin(target) != _origin(self.api_url):
                                headers = {}
                            url = target
                            continue
                        if not response.is_success:
                            raise self._problem(call, response, b"")
                        async for part in response.aiter_bytes():
                            size += len(part)
                            end += part
                            del end[:-limit]
                            if size > _LONGEST:
                                raise ForgeRejectedError(
                                    f"{self.host} sent more than {_LONGEST} bytes while {call.what}"
                                )
                        return bytes(end)
        except (TimeoutError, httpx2.HTTPError) as error:
            raise self._unreachable(call, error) from None
        raise ForgeRejectedError(f"{self.host} redirects more than {_REDIRECTS} times while {call.what}")

    def parse(self, type_: type[_T], response: httpx2.Response, call: Call) -> _T:
        """Validate a response as `type_`. Some forges write an empty list as null.

        Raises:
            ForgeUnavailableError: the response has another form; the message names the first wrong field.
        """
        empty = get_origin(type_) is list and response.content.strip() == b"null"
        try:
            return TypeAdapter(type_).validate_json(b"[]" if empty else response.content)
        except ValidationError as error:
            raise ForgeUnavailableError(
                f"{self.host} gave an unexpected answer while {call.what}: {first_problem(error)}",
                status=response.status_code,
            ) from None  # the validation error quotes the answer

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None
        await self.token.aclose()

    async def _try(self, call: Call) -> httpx2.Response:
        safe = call.repeat is Repeat.SAFE
        try:
            response = await self._following(call)
        except (TimeoutError, httpx2.HTTPError) as error:
            unreachable = self._unreachable(call, error)
            unreachable.repeatable = safe or isinstance(error, _NOT_SENT)
            raise unreachable from None
        if response.is_success:
            return response
        problem = self._problem(call, response, response.content)
        limited = rate_limited(response.status_code, response.headers, response.content)
        problem.repeatable = isinstance(problem, ForgeUnavailableError) and (safe or limited)
        raise problem

    def _problem(self, call: Call, response: httpx2.Response, content: bytes) -> ForgeError:
        status, headers, now = response.status_code, response.headers, self.clock.now()
        error = forge_error(
            status,
            headers,
            content,
            what=call.what,
            host=self.host,
            token=self.token.place,
            now=now,
            account=self.account,
        )
        error.answered_at = _date_of(headers)
        return error

    def _unreachable(self, call: Call, error: Exception) -> ForgeUnavailableError:
        reason = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            reason = f"no complete answer within {TOTAL_TIMEOUT:.0f} s"
        return ForgeUnavailableError(f"{self.host} cannot be reached while {call.what}: {reason[:200]}")

    def _headers(self, token: str) -> dict[str, str]:
        # `Bearer` works for all kinds of tokens on both forges, and HTTP libraries keep this header secret.
        return {**self.headers, "Authorization": f"Bearer {token}"}

    async def _following(self, call: Call) -> httpx2.Response:
        """Send a call and follow redirects on the same host, e.g. that of a renamed repository.

        A redirect to another host becomes an error, because the token must not be sent there.

        Raises:
            ForgeNotFoundError: the item was moved to another repository.
        """
        response = await self._sent(call)
        for _ in range(_REDIRECTS):
            target = str(response.next_request.url) if response.next_request else ""
            permitted = call.method == "GET" or response.status_code in _REPEATED
            if not target or not permitted or _origin(target) != _origin(self.api_url):
                break
            if call.names_item and not await self._holds(call, target):
                raise ForgeNotFoundError(
                    f"{self.host} says while {call.what} that it was moved to another repository.",
                    status=response.status_code,
                )
            if call.about:
                self.redirected.add(call.about.lower())
            # The redirect's address contains the query already, so ours must not be added.
            followed = replace(call, path=target, params={}, repository=call.about)
            response = await self._sent(followed)
        return response

    async def _holds(self, call: Call, target: str) -> bool:
        """Whether a redirect of a call leads to the same repository, whatever its name is now."""
        # GitHub also redirects from an issue that was transferred to another repository. A task must neither
        # read nor write there.
        name = call.about.lower()
        if name in self._repositories and self._repositories[name].holds(target):
            return True
        where = Call("GET", path("repos", *call.about.split("/", 1)), f"reading the repository {call.about}")
        response = await self._following(where)
        if not response.is_success:
            raise self._problem(where, response, response.content)
        self._repositories[name] = self.parse(_Repository, response, where)
        return self._repositories[name].holds(target)

    async def _sent(self, call: Call) -> httpx2.Response:
        """Send one request, once more with a new token after a 401. Return the response with any status."""
        token = await self.token.current(call.about)
        response = await self._sent_with(token, call)
        # A request whose token is refused has no effect, so repeating it is safe for every method.
        if response.status_code == 401:
            other = await self.token.current(call.about, refused=token)
            if other != token:
                response = await self._sent_with(other, call)
        return response

    async def _sent_with(self, token: str, call: Call) -> httpx2.Response:
        """Send one request with this token as soon as the rate limits permit it."""
        headers = self._headers(token)
        if self.pace is not None:
            await self.pace.turn(call.kind)
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                response = await self._client().request(
                    call.method,
                    call.path,
                    params=call.params or None,
                    json=call.json,
                    headers=headers,
                    extensions={} if call.kind is RequestKind.READ else {"trace": self._fenced},
                )
        except (TimeoutError, httpx2.HTTPError):
            if self.pace is not None:
                self.pace.answered(call.method, None, {}, b"")
            raise
        if self.pace is not None:
            self.pace.answered(call.method, response.status_code, response.headers, response.content)
        return response

    async def _fenced(self, event: str, _: object) -> None:
        """Check the fence again just before a request is written.

        httpx2 calls this before and after each step of a request (extension `trace`).
        """
        # The process may have been suspended while it connected, and another replica may have its Lease now.
        if self.pace is not None and event.endswith("send_request_headers.started"):
            self.pace.fence()

    def _client(self) -> httpx2.AsyncClient:
        """Return the connection pool, which is created at first use."""
        if self._pool is None:
            # With `True`, httpx2 reads the certificates again for each proxy, which takes 25 ms.
            verify = client_context() if self.transport is None else True
            self._pool = httpx2.AsyncClient(
                base_url=self.api_url.rstrip("/"),
                headers={"User-Agent": "coding-agent"},
                timeout=TIMEOUT,
                follow_redirects=False,
                verify=verify,
                transport=self.transport or _transport(verify),
            )
        return self._pool


def _transport(verify: ssl.SSLContext | bool) -> httpx2.AsyncBaseTransport | None:
    """Return a transport that drops unsent requests when the client gives up; `None` behind a proxy.

    Linux continues to send the rest of a closed connection. So after a network failure, the forge could
    receive an old comment after a newer one. A proxy may delay requests in any case.
    """
    if getproxies() or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return None  # httpx2 then makes a transport for each proxy of the environment
    unacknowledged = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TIMEOUT * 1000 * _SENDING))
    return httpx2.AsyncHTTPTransport(verify=verify, socket_options=[unacknowledged])


def answered_at(response: httpx2.Response, clock: Clock) -> datetime:
    """Return the time of a response by the forge's clock, or by ours if it has no header `Date`."""
    date = _date_of(response.headers)
    # The header has whole seconds, and GitLab's times are finer. No time in the response is later than the
    # end of that second.
    return clock.now() if date is None else date.replace(microsecond=999_999)


def _date_of(headers: Mapping[str, str]) -> datetime | None:
    try:
        date = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    # The date of HTTP is always in UTC. Two of them, as behind some proxies, are parsed without a time zone.
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def log_text(content: bytes, marks: re.Pattern[str]) -> str:
    """Return a log as plain text, without terminal sequences and marks of the forge.

    If a line was overwritten (`\\r`), only its last text is shown.
    """
    text = marks.sub("", _TERMINAL.sub("", content.decode("utf-8", "replace")))
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")).strip()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
