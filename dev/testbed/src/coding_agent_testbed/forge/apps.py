"""GitHub Apps: their installations, and tokens with limits that expire after an hour."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.model import Grant, Repository, User

LIFETIME = timedelta(hours=1)
_LONGEST = 600
"""The most seconds for which GitHub accepts a JWT."""
_LEVELS = ("read", "write", "admin")
GRAPHQL = "/api/graphql"
"""Its resolvers show each token what the token may read."""
REVOKE = "/installation/token"
"""Every installation token may revoke itself."""
_DECODED = "A JSON web token could not be decoded"
_PERMISSIONS: Sequence[tuple[str, tuple[str, ...]]] = (
    (r"/repos/[^/]+/[^/]+/commits/[^/]+/check-runs", ("checks",)),
    (r"/repos/[^/]+/[^/]+/(commits/[^/]+/status|statuses/.*)", ("statuses",)),
    (r"/repos/[^/]+/[^/]+/actions/.*", ("actions",)),
    (r"/repos/[^/]+/[^/]+/(branches|activity|contents|git)\b.*", ("contents",)),
    (r"/repos/[^/]+/[^/]+/hooks\b.*", ("repository_hooks",)),
    (r"/repos/[^/]+/[^/]+/pulls\b.*", ("pull_requests",)),
    (r"/repos/[^/]+/[^/]+/(issues|labels)\b.*|/search/issues", ("issues", "pull_requests")),
)
"""Paths with the permissions of which a token needs one (*Permissions required for GitHub Apps*). All other
paths need only `metadata`, which each token has."""


def new_key_pair() -> tuple[str, str]:
    """Return a private key in the PEM format that GitHub gives to an App's owner, and its public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


@dataclass
class App:
    """An App; comments and pushes of its tokens are `account`'s.

    Attributes:
        public_key: in PEM format, of the key with which the App signs.
        permissions: what the App asks for. An installation has what its owner accepted.
    """

    id: int
    slug: str
    owner: User
    account: User
    public_key: str = field(repr=False)
    permissions: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True)
class Manifest:
    """A manifest that somebody has confirmed, and who will own its App."""

    name: str
    owner: User
    permissions: Mapping[str, str]


@dataclass
class Installation:
    """An App in somebody's account.

    Attributes:
        repositories: the names of the repositories that the owner selected; `None` for all.
        hourly_quota: how many requests all its tokens together may send in an hour; `None`: as many as one
            token of a person. On GitHub, it grows with the repositories and people of the installation.
    """

    id: int
    app: App
    owner: str
    permissions: Mapping[str, str]
    created_at: datetime
    repositories: Sequence[str] | None = None
    suspended_at: datetime | None = None
    hourly_quota: int | None = None

    def includes(self, repository: Repository) -> bool:
        """Whether the installation reaches a repository."""
        selected = self.repositories
        return repository.owner == self.owner and (selected is None or repository.name in selected)


@dataclass
class InstallationToken:
    """A token, and the account as which it acts."""

    installation: Installation
    actor: User
    expires_at: datetime


class Apps:
    """All Apps of a forge.

    Attributes:
        lifetime: for how long new tokens live; a test can shorten it.
    """

    def __init__(self, now: Callable[[], datetime], next_id: Callable[[], int]) -> None:
        self._now = now
        self._next_id = next_id
        self.apps: list[App] = []
        self.installations: list[Installation] = []
        self.tokens: list[InstallationToken] = []
        self.lifetime = LIFETIME
        self.manifests: dict[str, Manifest] = {}

    def plan(self, manifest: Manifest) -> str:
        """Keep a manifest that somebody has confirmed; the code that creates its App once."""
        code = secrets.token_hex(20)
        self.manifests[code] = manifest
        return code

    def convert(self, code: str) -> tuple[App, str, str]:
        """Create the App of a code, with its private key in PEM format and the secret of its webhook.

        Raises:
            HttpError: 404, no manifest has this code, or its App exists already.
        """
        manifest = self.manifests.pop(code, None)
        if manifest is None:
            raise HttpError(404, "Not Found")
        private, public = new_key_pair()
        slug = re.sub(r"[^a-z0-9]+", "-", manifest.name.lower()).strip("-")
        app = self.create(slug, manifest.owner, public, manifest.permissions)
        return app, private, secrets.token_hex(20)

    def create(self, slug: str, owner: User, public_key: str, permissions: Mapping[str, str]) -> App:
        """Create an App with its account `slug[bot]`."""
        account = User(self._next_id(), f"{slug}[bot]", slug, "", bot=True)
        app = App(self._next_id(), slug, owner, account, public_key, dict(permissions), self._now())
        self.apps.append(app)
        return app

    def install(
        self,
        app: App,
        owner: str,
        *,
        repositories: Sequence[str] | None = None,
        permissions: Mapping[str, str] | None = None,
    ) -> Installation:
        """Install an App; `permissions` if its owner has not accepted all that it asks for."""
        accepted = dict(app.permissions if permissions is None else permissions)
        installation = Installation(self._next_id(), app, owner, accepted, self._now(), repositories)
        self.installations.append(installation)
        return installation

    def authenticate(self, token: str | None) -> App:
        """The App that signed a JWT.

        Raises:
            HttpError: in GitHub's words.
        """
        try:
            issuer = str(jwt.decode(token or "", options={"verify_signature": False}).get("iss"))
        except jwt.PyJWTError:
            raise HttpError(401, _DECODED) from None
        app = next((app for app in self.apps if str(app.id) == issuer), None)
        if app is None:
            raise HttpError(404, "Integration not found")
        options: Any = {"verify_exp": False, "verify_iat": False}  # they are checked by the forge's clock
        try:
            given = jwt.decode(token or "", app.public_key, algorithms=["RS256"], options=options)
        except jwt.PyJWTError:
            raise HttpError(401, _DECODED) from None
        now, iat, exp = self._now().timestamp(), given.get("iat"), given.get("exp")
        if not isinstance(iat, int) or iat > now:
            raise HttpError(
                401,
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was "
                "issued",
            )
        if not isinstance(exp, int) or exp <= now:
            raise HttpError(
                401,
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at "
                "which the assertion expires",
            )
        if exp > now + _LONGEST:
            raise HttpError(401, "'Expiration time' claim ('exp') is too far in the future")
        return app

    def exchange(
        self,
        installation: Installation,
        repositories: Sequence[Repository],
        permissions: Mapping[str, str] | None,
    ) -> InstallationToken:
        """Make a token.

        Raises:
            HttpError: the installation is suspended or has less than what is asked for.
        """
        if installation.suspended_at is not None:
            raise HttpError(403, "This installation has been suspended")
        wanted = installation.permissions if permissions is None else permissions
        if not all(includes(installation.permissions, name, level) for name, level in wanted.items()):
            raise HttpError(422, "The permissions requested are not granted to this installation.")
        grant = Grant(frozenset(one.id for one in repositories), {"metadata": "read", **wanted})
        value = f"ghs_{secrets.token_urlsafe(27)}"
        actor = replace(installation.app.account, token=value, grant=grant)
        token = InstallationToken(installation, actor, self._now() + self.lifetime)
        self.tokens = [*self._live(), token]
        return token

    def revoke(self, value: str) -> None:
        """Make a token invalid before it expires."""
        self.tokens = [token for token in self.tokens if token.actor.token != value]

    def installation_of(self, value: str | None) -> Installation | None:
        """The installation that a valid token is for."""
        return next((token.installation for token in self._live() if token.actor.token == value), None)

    def actors(self) -> list[User]:
        """The accounts of the tokens that are valid now."""
        return [token.actor for token in self._live()]

    def _live(self) -> list[InstallationToken]:
        now = self._now()
        return [
            token
            for token in self.tokens
            if token.expires_at > now
            and token.installation in self.installations
            and token.installation.suspended_at is None
        ]


def includes(granted: Mapping[str, str], name: str, level: str) -> bool:
    """Whether permissions include one of this level, or of a higher one."""
    has = granted.get(name)
    return has in _LEVELS and level in _LEVELS and _LEVELS.index(has) >= _LEVELS.index(level)


def check_permission(user: User, method: str, path: str) -> None:
    """Refuse a request for which an installation token lacks the permission; personal tokens may send any.

    Args:
        path: the path below the API's prefix.

    Raises:
        HttpError: 403.
    """
    if user.grant is None or path in (GRAPHQL, REVOKE):
        return
    level = "read" if method in ("GET", "HEAD") else "write"
    names = next((names for pattern, names in _PERMISSIONS if re.fullmatch(pattern, path)), ("metadata",))
    if path == "/user" or not any(includes(user.grant.permissions, name, level) for name in names):
        raise HttpError(403, "Resource not accessible by integration")
