"""Gets tokens for the installations of a GitHub App, and keeps each in memory until it is about to expire."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias, TypeVar

import httpx2
import jwt
from coding_agent_core.errors import (
    ForgeError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
    TokenMissingError,
)
from coding_agent_core.runtime.retry import Clock, RetryPolicy, Shared
from coding_agent_core.settings.section import Secrets, SecretSettings
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field

from coding_agent_forges.github.app_settings import App, GitHubServer, Purpose
from coding_agent_forges.github.auth.app import (
    AppInstallation,
    AppPlaces,
    AppProblem,
    AppRefusedError,
    app_problem,
    claims,
    names_within,
    permissions_for,
    token_hash,
)
from coding_agent_forges.rest.calls import Call, Repeat, ResponseModel, User, path
from coding_agent_forges.rest.client import ForgeClient, answered_at, remember_token
from coding_agent_forges.rest.pacing import Paced

_logger = logging.getLogger("coding_agent.github_app")
_T = TypeVar("_T")

RENEW_BEFORE = 600.0
"""A token with fewer seconds left is replaced, so that a push that starts now has this time."""
_LEAST = 60.0
"""A token with more seconds left than this still serves while GitHub is not available."""
_AGAIN_AFTER = 30.0
"""Seconds until GitHub is asked again for a token that it could not renew, or that it refused."""
_YOUNGEST_REFUSED = 60.0
"""Seconds. A younger token is not replaced although a caller says that GitHub refuses it, so that one caller
cannot use up the App's requests."""


@dataclass
class AppJwt:
    """The JWT with which the App identifies itself: made for each request, because that takes a millisecond.

    Attributes:
        place: where a person sets the key, for messages.
        key: the private key, if it is not in the file of the settings.
    """

    app: App
    clock: Clock
    place: str = "`github.app`"
    key: SecretSettings | None = field(default=None, repr=False)
    _key: Secrets = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._key = Secrets(self.key or SecretSettings(files=(self.app.private_key_file,)))

    async def current(self, repository: str, refused: str = "") -> str:
        """Return a new JWT; if one was refused, return it again, because every other would be refused too.

        Raises:
            TokenMissingError: the file with the key is absent or empty.
            SettingsError: the file is not a private RSA key.
        """
        given = dict(claims(self.app.app_id, self.clock.now()))
        return refused or jwt.encode(given, self.read_key(), algorithm="RS256")

    async def account(self) -> None:
        return None

    async def identity(self) -> str:
        return str(self.app.app_id)

    async def aclose(self) -> None:
        pass

    def read_key(self) -> RSAPrivateKey:
        """Return the App's private key.

        Raises:
            TokenMissingError: the file with the key is absent or empty.
            SettingsError: the file is not a private RSA key.
        """
        text, file = self._key.first(), self.app.private_key_file
        if text is None:
            raise TokenMissingError(
                f"The private key of the GitHub App cannot be read: {file} is absent or empty. Check "
                "`github.app.private_key_file`, and the Secret that is mounted there."
            )
        key = _private_key(text)
        if key is None:
            raise SettingsError(
                f"{file} is not a private RSA key in PEM format. Download one from the App's settings page "
                "(Private keys), and store the file unchanged."
            )
        return key


def _private_key(text: str) -> RSAPrivateKey | None:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # e.g. no PEM, or a key with a password
        return None
    return key if isinstance(key, RSAPrivateKey) else None


@dataclass(frozen=True)
class AppToken:
    """A token of an installation.

    Attributes:
        expires_in: the seconds for which it is still valid.
    """

    token: str = field(repr=False)
    expires_in: float


class _TokenResponse(ResponseModel):
    token: str = Field(repr=False)
    expires_at: datetime


class _AppResponse(ResponseModel):
    slug: str


@dataclass(frozen=True)
class _Kept:
    """A token, and when it was issued, is to be renewed and expires, in seconds of our monotonic clock."""

    token: str = field(repr=False)
    issued: float
    renew: float
    expires: float


@dataclass(frozen=True)
class _Refusal:
    """A recent refusal, and the monotonic time in seconds until which the request is not repeated."""

    problem: AppProblem
    message: str
    status: int | None
    until: float

    def error(self) -> AppRefusedError:
        """Return a new error, because each `raise` of one error makes its traceback longer."""
        return AppRefusedError(self.problem, self.message, status=self.status)


_Scope: TypeAlias = tuple[str, ...] | None
"""Owners and repositories, see `covers`; `None` for all."""
_Which: TypeAlias = tuple[str, Purpose | None, _Scope]
"""A repository in lower case, a purpose and a scope; for the App's account an empty text and `None`."""
_ACCOUNT: _Which = ("", None, None)
_BY_ID = re.compile(r"/repositories/(\d+)/installation$")


class AppTokens:
    """The tokens of one App's installations.

    Example:
        tokens = connect_app(settings.github)
        token = await tokens.token("acme/pricing", Purpose.ATTEMPT)
    """

    def __init__(self, settings: GitHubServer, app: App, client: ForgeClient) -> None:
        self._settings = settings
        self._app = app
        self._client = client
        self._clock = client.clock
        self._kept: dict[_Which, _Kept] = {}
        self._refusals: dict[_Which, _Refusal] = {}
        self._renewals: Shared[_Which, _Kept] = Shared()
        self._account: User | None = None

    async def token(
        self, repository: str, purpose: Purpose, refused: str = "", within: _Scope = None
    ) -> AppToken:
        """Return a token for a repository, with the permissions of a purpose.

        All who wait for the same token share one request. While GitHub is not available, a token that should
        be renewed is returned as long as it is valid for another minute. For half a minute after a refusal
        of GitHub, the same is refused without another request, so that many tasks do not use up the App's
        requests.

        Args:
            repository: `owner/name`; empty for all repositories of an installation.
            refused: the `token_hash` of a token that GitHub no longer accepts. It is replaced if it is not
                new, and otherwise returned again.
            within: the owners and repositories to which the token is limited; `None` for no limit.

        Raises:
            AppRefusedError: a person has to change something; the message says what.
            ForgeError: GitHub is not available, or refuses for another reason.
            SettingsError: the private key cannot be read.
        """
        which, now = (repository.lower(), purpose, within), self._clock.monotonic()
        kept = self._kept.get(which)
        # A token that is seconds old may not be known to all of GitHub yet, so its refusal says nothing.
        if kept is not None and refused == token_hash(kept.token) and now - kept.issued >= _YOUNGEST_REFUSED:
            _logger.warning("GitHub no longer accepts the token for %s (%s)", repository or "all", purpose)
            del self._kept[which]
            kept = None
        if kept is None or now >= kept.renew:
            kept = await self._renewals.run(
                which, lambda: self._unless_refused(which, lambda: self._renew(repository, purpose, within))
            )
        return AppToken(kept.token, kept.expires - self._clock.monotonic())

    async def _renew(self, repository: str, purpose: Purpose, within: _Scope) -> _Kept:
        which: _Which = (repository.lower(), purpose, within)
        kept = self._kept.get(which)
        try:
            kept = await self._exchange(repository, purpose, within)
        except ForgeUnavailableError as error:
            now = self._clock.monotonic()
            # A token that is still valid helps over an outage of GitHub.
            if kept is None or kept.expires - now <= _LEAST:
                raise
            _logger.warning("The token for %s is not renewed yet: %s", repository or "all", error)
            # Without a pause, each request for a token would ask GitHub again during its outage.
            kept = replace(kept, renew=min(now + _AGAIN_AFTER, kept.expires - _LEAST))
        self._kept[which] = kept
        self._forget_expired()
        return kept

    async def account(self) -> User:
        """Return the App's account, `NAME[bot]`, which is cached. It raises the same errors as `token`.

        Only GitHub's API for people shows the account's id, and the App's JWT does not open that API.
        """
        if self._account is None:
            self._account = await self._unless_refused(_ACCOUNT, self._read_account)
        return self._account

    async def _read_account(self) -> User:
        call = Call("GET", "/app", "asking for the name of the GitHub App")
        app = await self._asked(lambda: self._client.get(_AppResponse, call), self._places(""))
        chosen = self._app.installation_id
        if chosen is None:
            found = await self._installations()
            chosen = next((one for one in found if one.suspended_at is None), found[0]).id
        kept = await self._token_of(chosen, {"permissions": {"metadata": "read"}}, self._places(""))
        client = replace(self._client, token=_Given(kept.token))
        try:
            call = Call("GET", path("users", f"{app.slug}[bot]"), "reading the GitHub App's account")
            return await client.get(User, call)
        finally:
            await client.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _unless_refused(self, which: _Which, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do the work. If it was refused less than `_AGAIN_AFTER` seconds ago, raise that refusal again."""
        now = self._clock.monotonic()
        self._refusals = {one: refusal for one, refusal in self._refusals.items() if refusal.until > now}
        if which in self._refusals:
            raise self._refusals[which].error()
        try:
            return await work()
        except AppRefusedError as error:
            until = self._clock.monotonic() + _AGAIN_AFTER
            self._refusals[which] = _Refusal(error.problem, str(error), error.status, until)
            raise

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        self._kept = {which: kept for which, kept in self._kept.items() if kept.expires > now}

    async def _exchange(self, repository: str, purpose: Purpose, within: _Scope) -> _Kept:
        """Find the installation, check that it has what the purpose needs, and get a token."""
        installation, renamed = await self._installation(repository, within)
        places = replace(self._places(repository), installation=installation.html_url)
        permissions = permissions_for(purpose, repository)
        # A request for a token names the repository without its owner, and another owner may have one of the
        # same name. GitHub itself found an installation that was looked up, maybe by an old name; a scope
        # means the owner of now.
        by_name = self._app.installation_id is not None or within is not None
        if repository and by_name and not installation.owns(repository):
            raise _refused(AppProblem.REPOSITORY_OUTSIDE, places)
        if installation.suspended_at is not None:
            raise _refused(AppProblem.SUSPENDED, places)
        if missing := permissions.missing(installation.permissions):
            raise _refused(AppProblem.PERMISSION_MISSING, places, missing=", ".join(missing))
        # The token opens no more than its use needs, whatever the owner has granted to the App.
        body: dict[str, object] = {"permissions": permissions.narrowed(installation.permissions)}
        if not repository and within is not None:
            names = names_within(within, installation.account.login if installation.account else "")
            if names == []:
                raise _refused(AppProblem.REPOSITORY_OUTSIDE, places)
            if names is not None:
                body["repositories"] = names
        try:
            kept = await self._token_of(installation.id, body | _chosen(repository, renamed), places)
        except AppRefusedError as error:
            if error.problem is not AppProblem.REPOSITORY_OUTSIDE or self._app.installation_id is None:
                raise
            # The settings name the installation, so the repository was not looked up and may be renamed.
            try:
                found, renamed = await self._lookup(repository)
            except AppRefusedError:  # e.g. GitHub says of a repository that was not chosen: not installed
                raise error from None
            if renamed is None or found.id != installation.id:
                raise error from None
            kept = await self._token_of(installation.id, body | _chosen(repository, renamed), places)
        _logger.info("Got a token for %s (%s)", repository or "all repositories", purpose)
        return kept

    async def _token_of(self, installation: int, body: Mapping[str, object], places: AppPlaces) -> _Kept:
        call = Call(
            "POST",
            path("app", "installations", installation, "access_tokens"),
            f"getting a token for {places.repository or 'all repositories'}",
            json=body,
            # If an answer is lost, its token expires without having been used.
            repeat=Repeat.SAFE,
        )
        response: httpx2.Response = await self._asked(lambda: self._client.send(call), places)
        answer = self._client.parse(_TokenResponse, response, call)
        # Both times are of GitHub's clock, so a wrong clock of ours does not matter here.
        lifetime = (answer.expires_at - answered_at(response, self._clock)).total_seconds()
        remember_token(answer.token)
        now = self._clock.monotonic()
        return _Kept(answer.token, now, now + lifetime - RENEW_BEFORE, now + lifetime)

    async def _installation(self, repository: str, within: _Scope) -> tuple[AppInstallation, int | None]:
        """Return the installation for a repository, with the repository's id if it has another name now."""
        chosen = self._app.installation_id
        if chosen is None:
            if repository:
                return await self._lookup(repository)
            return await self._only_installation(within), None
        what = f"looking up the GitHub App's installation for {repository or 'a search'}"
        call = Call("GET", path("app", "installations", chosen), what)
        places = self._places(repository)
        asked = self._asked(lambda: self._client.get(AppInstallation, call), places, by_id=True)
        return await asked, None

    async def _lookup(self, repository: str) -> tuple[AppInstallation, int | None]:
        """Ask GitHub for the installation of a repository, whichever installation the settings name.

        GitHub finds a renamed repository by its old name, and redirects to its id. But it gives no token for
        an old name.
        """
        what = f"looking up the GitHub App's installation for {repository}"
        call = Call("GET", path("repos", *repository.split("/")) + "/installation", what)
        response = await self._asked(lambda: self._client.send(call), self._places(repository))
        renamed = _BY_ID.search(response.url.path)
        return self._client.parse(AppInstallation, response, call), int(renamed[1]) if renamed else None

    async def _only_installation(self, within: _Scope) -> AppInstallation:
        found = await self._installations()
        if within is not None:
            found = [one for one in found if any(one.owns(entry) for entry in within)]
            if not found:
                raise _refused(AppProblem.NOT_INSTALLED, self._places(""))
        if len(found) > 1:
            raise ForgeRefusedError(
                f"{self._places('').app} has {len(found)} installations, and a search covers only one. Set "
                "`github.app.installation_id` to the number at the end of the installation's address."
            )
        return found[0]

    async def _installations(self) -> list[AppInstallation]:
        """Return the first page of the App's installations; there is at least one."""
        places = self._places("")
        call = Call("GET", "/app/installations", "listing the GitHub App's installations", {"per_page": 100})
        found = await self._asked(lambda: self._client.get(list[AppInstallation], call), places)
        if not found:
            raise _refused(AppProblem.NOT_INSTALLED, places)
        return found

    def _places(self, repository: str) -> AppPlaces:
        return AppPlaces(
            host=self._settings.host,
            app=f"GitHub App {self._app.app_id}",
            repository=repository,
            key_file=str(self._app.private_key_file),
        )

    async def _asked(
        self, request: Callable[[], Awaitable[_T]], places: AppPlaces, *, by_id: bool = False
    ) -> _T:
        """Send a request. If GitHub refuses it for a known reason, the error says what to change."""
        try:
            return await request()
        except ForgeError as error:
            problem = app_problem(error, by_id=by_id)
            if problem is None:
                raise
            at = error.answered_at
            ahead = None if at is None else (self._clock.now() - at).total_seconds()
            raise AppRefusedError(
                problem, places.sentence(problem, seconds=ahead), status=error.status
            ) from error


@dataclass
class _Given:
    """A source that always returns one token, which was just issued."""

    token: str = field(repr=False)
    place: str = "`github.app`"

    async def current(self, repository: str, refused: str = "") -> str:
        return self.token

    async def account(self) -> None:
        return None

    async def identity(self) -> str:
        return self.place

    async def aclose(self) -> None:
        pass


@dataclass
class AppTokenSource:
    """The token source of a process that holds the App's key itself.

    Attributes:
        place: where a person sets the App, for messages.
    """

    tokens: AppTokens
    place: str = "`github.app`"

    @staticmethod
    def of(settings: GitHubServer, app: App, clock: Clock) -> AppTokenSource:
        """Return the source for the configured App.

        Raises:
            SettingsError: the file is not a private RSA key.
            TokenMissingError: the file with the key is absent or empty.
        """
        AppJwt(app, clock).read_key()
        return AppTokenSource(connect_app(settings, clock=clock))

    async def current(self, repository: str, refused: str = "") -> str:
        known = token_hash(refused) if refused else ""
        return (await self.tokens.token(repository, Purpose.CONSUMER, known)).token

    async def account(self) -> User:
        return await self.tokens.account()

    async def identity(self) -> str:
        return (await self.account()).login

    async def aclose(self) -> None:
        await self.tokens.aclose()


def _chosen(repository: str, renamed: int | None) -> dict[str, object]:
    """Return the fields of a request that limit a token to a repository; empty for all repositories."""
    if renamed is not None:
        return {"repository_ids": [renamed]}
    return {"repositories": [repository.partition("/")[2]]} if repository else {}


def _refused(problem: AppProblem, places: AppPlaces, *, missing: str = "") -> AppRefusedError:
    return AppRefusedError(problem, places.sentence(problem, missing=missing))


def connect_app(
    settings: GitHubServer,
    *,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    clock: Clock = Clock(),  # noqa: B008 - immutable
    transport: httpx2.AsyncBaseTransport | None = None,
    pace: Paced | None = None,
    key: SecretSettings | None = None,
) -> AppTokens:
    """Return the tokens of the configured App, without opening a connection.

    Args:
        transport: replaces the network in tests.
        key: the private key, if it is not in the file of the settings.

    Raises:
        SettingsError: no App is configured.
    """
    app = settings.app
    if app is None:
        raise SettingsError("No GitHub App is configured: set `github.app`.")
    jwt_source = AppJwt(app, clock, key=key)
    client = ForgeClient(
        settings.host, settings.api_url, jwt_source, settings.headers, policy, clock, pace, transport
    )
    return AppTokens(settings, app, client)
