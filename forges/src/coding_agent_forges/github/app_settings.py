"""Settings of GitHub's API and of the GitHub App: all that the token service reads of GitHub's settings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.settings.section import ForgeId, SecretField, SecretSettings, Section, Url
from pydantic import Field

_OWNER_OR_REPOSITORY = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$"
_CLOUD_VERSION = "2026-03-10"
_SERVER_VERSION = "2022-11-28"
"""GitHub Enterprise Server has the newer version only since 3.21 (GitHub's documentation of each release,
*API Versions*), and refuses one that it does not have."""


class Purpose(StrEnum):
    """The uses of a token, each with its own permissions."""

    ATTEMPT = "attempt"
    EVIDENCE = "evidence"
    """Reads the item and clones the repository for `verify`."""
    REPORT = "report"
    POLL = "poll"
    CONSUMER = "consumer"
    """All that a process without Kubernetes does, which holds the App's key itself."""


class TokenService(Section):
    """The token service, which alone holds the App's key. The Helm chart sets all of this."""

    url: Url
    """URL of the service."""
    key: SecretField = SecretSettings()
    """Key with which the operator signs the credentials of attempts. The service accepts all values; the
    operator uses the first. At least 32 bytes."""


class App(Section):
    """The GitHub App that gives the tokens, instead of a personal access token."""

    app_id: ForgeId
    """*App ID* on the App's settings page."""
    installation_id: ForgeId | None = None
    """The only installation to use: the number at the end of its page's address. By default, the
    installation of each repository is looked up."""
    private_key_file: Path
    """File with the App's private key in PEM format. With `service`, only the token service reads it. It is
    read again when it changes."""
    service: TokenService | None = None
    """The token service; without it, this process reads the key and gets its tokens itself."""
    namespaces: dict[str, tuple[Annotated[str, Field(pattern=_OWNER_OR_REPOSITORY)], ...]] = Field(
        default_factory=dict
    )
    """For an App of several teams: the owners (`acme`) and repositories (`acme/pricing`) for which the
    programs and attempts of each namespace get tokens. A namespace that is not listed then gets none. By
    default, each gets tokens for every repository of every installation. The token service reads this."""

    @property
    def other_secrets(self) -> SecretSettings:
        return SecretSettings(files=(self.private_key_file,))


class GitHubServer(Section):
    """An installation of GitHub, and the App there."""

    api_url: Url = "https://api.github.com"
    """REST base URL; GitHub Enterprise: `https://HOST/api/v3`."""
    app: App | None = None
    """GitHub App; not used together with `personal_access_token`."""

    @property
    def host(self) -> str:
        """The web host: the API's host, but without `api.` on github.com and GHE.com.

        GitHub's documentation, *Network details for GHE.com*: the API of SUBDOMAIN.ghe.com is at
        `https://api.SUBDOMAIN.ghe.com`.
        """
        host = host_of(self.api_url)
        bare = host.removeprefix("api.")
        return bare if _is_cloud(bare) else host

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request to the REST API."""
        version = _CLOUD_VERSION if _is_cloud(self.host) else _SERVER_VERSION
        return {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": version}


def _is_cloud(host: str) -> bool:
    return host == "github.com" or host.endswith(".ghe.com")
