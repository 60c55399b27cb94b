"""The rules of GitHub Apps: permissions for each purpose, claims of a JWT, and reasons of refusals. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.errors import ForgeError, ForgeRefusedError
from pydantic import Field

from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.rest.calls import ResponseModel

_BACK = timedelta(seconds=60)
"""How far `iat` is set back, so that a clock that is a little fast does no harm (GitHub's documentation,
*Generating a JSON Web Token (JWT) for a GitHub App*)."""
_AHEAD = timedelta(minutes=9)
"""GitHub accepts at most ten minutes. One minute is for a clock that is fast."""
TOKEN_PATH = "/v1/token"  # noqa: S105 - a path
ACCOUNT_PATH = "/v1/account"
"""The paths of the token service."""
_LEVELS = ("read", "write", "admin")


@dataclass(frozen=True)
class Permissions:
    """The permissions of a purpose, as GitHub's API names them.

    Attributes:
        required: without one of them, there is no token.
        optional: permissions that the token also gets if the installation has them.
    """

    required: Mapping[str, str]
    optional: Mapping[str, str]

    def missing(self, granted: Mapping[str, str]) -> list[str]:
        """Return the permissions that an installation lacks, for people: `Issues (write)`."""
        return [
            f"{name.replace('_', ' ').capitalize()} ({level})"
            for name, level in self.required.items()
            if not _includes(granted, name, level)
        ]

    def narrowed(self, granted: Mapping[str, str]) -> dict[str, str]:
        """Return the permissions to ask for. GitHub refuses a request for more than the installation has."""
        optional = {name: level for name, level in self.optional.items() if _includes(granted, name, level)}
        return {**self.required, **optional}

    def reading(self) -> Permissions:
        """Return the same permissions without the right to write."""
        return Permissions(dict.fromkeys(self.required, "read"), {})


def _includes(granted: Mapping[str, str], name: str, level: str) -> bool:
    has = granted.get(name)
    return has in _LEVELS and _LEVELS.index(has) >= _LEVELS.index(level)


_READ_CHECKS = {"actions": "read", "checks": "read", "statuses": "read"}

_WORK = {
    "metadata": "read",
    "contents": "write",
    "issues": "write",
    "pull_requests": "write",
    **_READ_CHECKS,
}
_WORKFLOWS = {"workflows": "write"}
"""Changes files below `.github/workflows`."""
_RERUN = {"actions": "write"}
"""Runs flaky checks again."""

_PERMISSIONS: Mapping[Purpose, Permissions] = {
    Purpose.ATTEMPT: Permissions(_WORK, {**_RERUN, **_WORKFLOWS}),
    Purpose.EVIDENCE: Permissions(
        {"metadata": "read", "contents": "read", "issues": "read", "pull_requests": "read"}, {}
    ),
    Purpose.REPORT: Permissions({**_WORK, "contents": "read", "statuses": "write"}, _RERUN),
    Purpose.POLL: Permissions({"metadata": "read", "issues": "read", "pull_requests": "read"}, {}),
    Purpose.CONSUMER: Permissions({**_WORK, "statuses": "write"}, {**_RERUN, **_WORKFLOWS}),
}


def permissions_for(purpose: Purpose, repository: str) -> Permissions:
    """Return the permissions that a token needs. A token for all repositories may only read.

    Args:
        repository: `owner/name`; empty for all repositories, e.g. for a search.
    """
    permissions = _PERMISSIONS[purpose]
    return permissions if repository else permissions.reading()


def covers(scope: Sequence[str], repository: str) -> bool:
    """Whether a repository is in a scope of owners (`acme`) and repositories (`acme/pricing`)."""
    wanted = repository.lower()
    return bool({wanted, wanted.partition("/")[0]} & {entry.lower() for entry in scope})


def names_within(scope: Sequence[str], owner: str) -> list[str] | None:
    """Return the names of an owner's repositories in a scope; `None` if the scope has the whole owner."""
    if owner.lower() in (entry.lower() for entry in scope):
        return None
    parts = [entry.partition("/") for entry in scope]
    return sorted(name for owned_by, _, name in parts if owned_by.lower() == owner.lower())


def claims(app_id: int, now: datetime) -> dict[str, int | str]:
    """Return the claims of the JWT with which the App identifies itself."""
    return {
        "iat": int((now - _BACK).timestamp()),
        "exp": int((now + _AHEAD).timestamp()),
        "iss": str(app_id),
    }


def token_hash(token: str) -> str:
    """Return the hash with which a caller tells the token service which token GitHub did not accept."""
    return hashlib.sha256(token.encode()).hexdigest()


class _Account(ResponseModel):
    """The account of an installation. An enterprise has no login."""

    login: str = ""


class AppInstallation(ResponseModel):
    """The App's installation in an account. `html_url` is the page on which its owner changes it."""

    id: int
    html_url: str
    account: _Account | None = None
    permissions: Mapping[str, str] = Field(default_factory=dict)
    suspended_at: datetime | None = None

    def owns(self, repository: str) -> bool:
        """Whether the installation's account owns the repository, `owner/name`."""
        owner = repository.partition("/")[0]
        return self.account is not None and self.account.login.lower() == owner.lower()


class AppProblem(StrEnum):
    """The reasons why GitHub refuses a token until a person changes something."""

    KEY_REFUSED = "KeyRefused"
    APP_UNKNOWN = "AppUnknown"
    CLOCK_WRONG = "ClockWrong"
    NOT_INSTALLED = "NotInstalled"
    INSTALLATION_UNKNOWN = "InstallationUnknown"
    SUSPENDED = "Suspended"
    REPOSITORY_OUTSIDE = "RepositoryOutside"
    PERMISSION_MISSING = "PermissionMissing"


class AppRefusedError(ForgeRefusedError):
    """The error if GitHub refuses a token until a person changes what the message says."""

    def __init__(self, problem: AppProblem, message: str, *, status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.problem = problem


def app_problem(error: ForgeError, *, by_id: bool) -> AppProblem | None:
    """Return the reason of a refusal; `None` if it is not about the App, e.g. a rate limit.

    GitHub has no codes for these refusals, so this reads the status and phrases of the message. Each phrase
    has a space or a quote, so the name of a repository in the message cannot match.

    Args:
        by_id: whether the request names an installation of the settings, not one that was looked up.
    """
    text = str(error).lower()
    if error.status == 401:
        if "'issued at'" in text or "'expiration time'" in text:
            return AppProblem.CLOCK_WRONG
        return AppProblem.APP_UNKNOWN if "integration not found" in text else AppProblem.KEY_REFUSED
    if error.status == 403 and "been suspended" in text:
        return AppProblem.SUSPENDED
    if error.status in (404, 410):
        if "integration not found" in text:
            return AppProblem.APP_UNKNOWN
        return AppProblem.INSTALLATION_UNKNOWN if by_id else AppProblem.NOT_INSTALLED
    if error.status == 422 and "to the parent installation" in text:
        return AppProblem.REPOSITORY_OUTSIDE
    if error.status == 422 and "permissions requested" in text:
        return AppProblem.PERMISSION_MISSING
    return None


@dataclass(frozen=True)
class AppPlaces:
    """The pages and settings that the sentences name.

    Attributes:
        host: the web host of GitHub.
        app: the App as people know it, e.g. `App 4711`.
        repository: the repository for which a token was asked; empty for all.
        key_file: the file with the private key.
        installation: the page of the installation, if it is known.
    """

    host: str
    app: str
    repository: str
    key_file: str
    installation: str = ""

    def sentence(self, problem: AppProblem, *, missing: str = "", seconds: float | None = None) -> str:
        """Return what is wrong and what to change.

        Args:
            missing: the permissions that the installation lacks, if they are known.
            seconds: how far our clock is ahead of GitHub's, if that is known; negative: behind.
        """
        app_page = f"https://{self.host}/settings/apps, or the organization's Developer settings"
        page = self.installation or (
            f"https://{self.host}/settings/installations, or the organization's GitHub Apps settings"
        )
        where = self.repository or "any repository"
        match problem:
            case AppProblem.KEY_REFUSED:
                return (
                    f"{self.host} does not accept the private key of {self.app}. Check that "
                    f"`github.app.app_id` is right and that {self.key_file} is a key of this App "
                    f"({app_page} > Private keys)."
                )
            case AppProblem.APP_UNKNOWN:
                return (
                    f"{self.host} knows no {self.app}. Set `github.app.app_id` to the App ID ({app_page}), "
                    "and check `github.api_url`."
                )
            case AppProblem.CLOCK_WRONG:
                return (
                    f"{self.host} refuses the signature of {self.app} because the clock of this machine is "
                    f"wrong{_by(seconds)}. Correct the clock, for example with NTP."
                )
            case AppProblem.NOT_INSTALLED:
                return (
                    f"{self.app} is not installed for {where}. Its owner can install it: {app_page} > "
                    "Install App."
                )
            case AppProblem.INSTALLATION_UNKNOWN:
                return (
                    f"{self.app} has no installation with the id in `github.app.installation_id`. Remove the "
                    f"setting, or set it to the number at the end of the installation's address ({page})."
                )
            case AppProblem.SUSPENDED:
                return f"The installation of {self.app} for {where} is suspended. Unsuspend it: {page}."
            case AppProblem.REPOSITORY_OUTSIDE:
                return (
                    f"The installation of {self.app} does not include {where}. Add it under "
                    f"*Repository access*: {page}."
                )
            case AppProblem.PERMISSION_MISSING:
                lacks = f"the permissions {missing}" if missing else "a permission"
                return (
                    f"The installation of {self.app} for {where} lacks {lacks}. Add it to the App "
                    f"({app_page} > Permissions & events), and let the owner accept it: {page}."
                )


def _by(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f": it is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
