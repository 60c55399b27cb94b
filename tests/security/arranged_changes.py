"""Changes that somebody arranges so that the agent pushes to a branch of the base repository."""

from collections.abc import Callable

from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.forge.git import git, set_branch
from coding_agent_testbed.forge.model import Kind, Repository, Role

from tests.fixtures.forge import commit
from tests.fixtures.system import REPOSITORY, System

BOT = "coding-agent-bot"
MALLORY = "mallory/pricing"


def refs(repository: Repository) -> str:
    """Every branch of a repository with its commit."""
    return git(repository.path, "for-each-ref", "refs/heads")


def forked(system: System, branch: str = "main", owner: str = "mallory") -> tuple[int, Repository]:
    """A change from a branch of somebody's fork, into which the agent may push; its number."""
    fork = system.forge.fork(REPOSITORY, owner, roles={BOT: Role.WRITE})
    commit(fork.path, branch)
    return system.forge.open_change(REPOSITORY, branch, "main", source=fork), fork


def own(system: System, branch: str, base: str = "main") -> int:
    """A change from a branch of the repository itself; its number."""
    commit(system.forge.repository(REPOSITORY).path, branch)
    return system.forge.open_change(REPOSITORY, branch, base)


def deleted_fork(system: System) -> int:
    number, _ = forked(system)
    system.forge.delete(MALLORY)
    return number


def invisible_fork(system: System) -> int:
    number, fork = forked(system, owner="trent")
    fork.private, fork.roles = True, {}
    return number


def forks_default_branch(system: System) -> int:
    return forked(system, owner="oscar")[0]


def default_branch(system: System) -> int:
    """The default branch is merged somewhere; `main` is not its name."""
    repository = system.forge.repository(REPOSITORY)
    set_branch(repository.path, "stable", "main")
    set_branch(repository.path, "trunk", "main")
    repository.default_branch = "trunk"
    return own(system, "trunk", "stable")


def protected_branch(system: System) -> int:
    system.forge.protect(REPOSITORY, "release/*")
    return own(system, "release/1")


ARRANGED: tuple[tuple[Callable[[System], int], Reason], ...] = (
    (deleted_fork, Reason.SOURCE_REPOSITORY_GONE),
    (invisible_fork, Reason.SOURCE_REPOSITORY_GONE),
    (forks_default_branch, Reason.PUSH_NOT_ALLOWED),
    (default_branch, Reason.PUSH_NOT_ALLOWED),
    (protected_branch, Reason.PUSH_NOT_ALLOWED),
)
"""Each makes a change and returns its number; the attempt ends with this reason."""


def label_arranged_changes(system: System) -> None:
    """All of them in one running system: each ends with its reason, and nothing is pushed or spent."""
    base = system.forge.repository(REPOSITORY)
    base.roles[BOT] = Role.ADMIN  # the forge itself would accept a push to a protected branch
    numbers = {arrange(system): reason for arrange, reason in ARRANGED}
    before = refs(base)
    for number in numbers:
        system.put_label(number, Kind.CHANGE)
    for number, reason in numbers.items():
        system.wait_for_comment(number, f"reason {reason}", Kind.CHANGE)
    assert refs(base) == before
    assert system.model.requests == [], "they end before anything is spent"
