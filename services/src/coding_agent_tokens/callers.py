"""The callers of the token service, and the repositories for which they get tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import covers
from coding_agent_forges.github.auth.token_credential import TokenCredential

AUDIENCE = "coding-agent-tokens"
"""The audience of the ServiceAccount tokens that programs send. A token for the API server has another."""


@dataclass(frozen=True)
class Caller:
    """An attempt or a program that may have tokens.

    Attributes:
        name: the Job of an attempt, or a ServiceAccount, for the log.
        repository: the only repository for which the caller may have a token; `None` for any.
        namespace: where the caller runs; empty if an old operator did not say so.
    """

    name: str
    purpose: Purpose
    repository: str | None
    namespace: str

    def scope(self, namespaces: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
        """Return the owners and repositories for which the caller's namespace gets tokens; `None` for all.

        Args:
            namespaces: the setting `github.app.namespaces`.
        """
        return tuple(namespaces.get(self.namespace, ())) if namespaces else None

    def refusal(self, repository: str, scope: Sequence[str] | None) -> str | None:
        """Return why the caller gets no token for this repository; `None` if it does.

        Args:
            repository: `owner/name`; empty for all repositories of an installation within the scope.
            scope: owners and repositories for which the caller's namespace gets tokens; `None` for all.
        """
        if self.repository is not None and self.repository.lower() != repository.lower():
            asked = repository or "all repositories"
            return f"{self.name} may only have a token for {self.repository}, not for {asked}."
        if scope is not None and (not scope or (repository and not covers(scope, repository))):
            asked = repository or "any repository"
            return (
                f"The namespace {self.namespace or 'of ' + self.name} may not have a token for {asked}: "
                "`github.app.namespaces` of the token service says for which it may."
            )
        return None


def attempt_of(credential: TokenCredential, host: str) -> Caller | None:
    """Return the attempt that a credential identifies; `None` if it is for another forge than ours."""
    if credential.host.lower() != host.lower():
        return None
    return Caller(credential.job, credential.purpose, credential.repository, credential.namespace)


def review_request(token: str) -> dict[str, Any]:
    """Return the TokenReview that asks the API server whose token this is."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }


def program_of(review: Mapping[str, Any], programs: Mapping[str, Purpose]) -> Caller | None:
    """Return the program that a TokenReview identifies; `None` if it identifies none of ours.

    If the API server does not know audiences, it leaves them out, and the token may be for another service.

    Args:
        programs: user names of ServiceAccounts, `system:serviceaccount:NAMESPACE:NAME`.
    """
    status = review.get("status") or {}
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        return None
    name = (status.get("user") or {}).get("username")
    if not isinstance(name, str) or name not in programs:
        return None
    return Caller(name, programs[name], None, name.split(":")[2])
