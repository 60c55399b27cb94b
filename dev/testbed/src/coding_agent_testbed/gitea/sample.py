"""The sample: an organization with one repository, its labels, and people with different rights."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.gitea.accounts import Account
from coding_agent_testbed.gitea.server import GiteaServer

REPOSITORY = "acme/pricing"
LABELS = ("coding agent", "coding agent processing", "coding agent done", "bug")
_FILES = Path(__file__).resolve().parents[3] / "samples" / "pricing"


@dataclass(frozen=True)
class Sample:
    """The addresses, the repository, and the accounts with different rights in it."""

    url: str
    api_url: str
    repository: str
    admin: Account
    """Administers the whole server."""
    bot: Account
    """Pushes, labels and comments for the coding agent: a collaborator with `write`."""
    maintainer: Account
    """A person: a collaborator with `write`."""
    stranger: Account
    """A user without any right in the repository, which is public."""


def sample_files() -> dict[str, str]:
    """The files of the first commit: the sandbox forge's sample."""
    return {
        str(file.relative_to(_FILES)): file.read_text(encoding="utf-8")
        for file in sorted(_FILES.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def make_sample(
    server: GiteaServer,
    repository: str = REPOSITORY,
    *,
    files: Mapping[str, str] | None = None,
    labels: Iterable[str] = LABELS,
    suffix: str = "",
) -> Sample:
    """Make the users, the organization and the repository.

    Samples on one server need a suffix for the names of users and organizations. A poll searches all of an
    organization, so samples in the same one would find each other's issues.

    Raises:
        GiteaError: Gitea refused something, such as a name that is taken.
    """
    owner, name = repository.split("/")
    repository = f"{owner}{suffix}/{name}"
    with server.api() as api:
        bot, maintainer, stranger = (
            api.create_user(server.api_url, f"{login}{suffix}", secrets.token_hex(16))
            for login in ("coding-agent-bot", "alice", "mallory")
        )
        api.create_repository(repository, files or sample_files(), labels)
        for account in (bot, maintainer):
            api.add_collaborator(repository, account.login, "write")
    return Sample(server.url, server.api_url, repository, server.admin, bot, maintainer, stranger)
