"""What git's output means when it fails with a forge: the errors, and the texts by which they are found.

The texts are those of git's sources with LC_ALL=C (read in 2.39 and 2.55): `remote-curl.c`, `http.c`,
`transport.c`, `transport-helper.c`, `remote.c`, `fetch-pack.c`, `send-pack.c`, `connect.c`, `pkt-line.c`,
`connected.c`, `wrapper.c`, `run-command.c`, `builtin/fetch.c`, `builtin/clone.c`, `builtin/push.c`,
`builtin/index-pack.c`, and, for what a server answers, `upload-pack.c`, `builtin/receive-pack.c`, `refs.c`
and `refs/files-backend.c`. libcurl's own texts follow `unable to access`.

A text without a row is that of a forge that is not available: another try may succeed, and each retry has a
limit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeVar

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
)
from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry, with_asked_wait
from coding_agent_forges.rest.pacing import LIMITED_WAIT, rate_limited, rejection, retry_after

_T = TypeVar("_T")

REDIRECTED = range(300, 400)
_RENAMING = RetryPolicy(tries=3, total=float("inf"), first_wait=1.0, longest_wait=5.0)
"""How often work starts again after a branch was not there. A forge may show a new name a little later in its
API than in git."""

_TRACE = r"(?<!remote: )\d\d:\d\d:\d\d\.\d{6} [\w.-]+\.c:\d+ +"
_SERVER = r"^remote: ?(.*)$"
_DECLINED = r"^!\t.*\[remote rejected\] \((.*)\)$"
_REJECTED = r"^!\t.*\[rejected\]"
"""Git's own refusal: the branch is not where the push expects it."""

_MOVED = (
    r"cannot lock ref .*: (is at|reference is missing)|reference (already exists|does not exist)"
    r"|incorrect old value provided|^non-fast-forward$"
)
"""A server's reasons to decline a push if the branch is not at the commit that the push expected."""
_UNDECIDED = (
    r"failed to update refs?|failed to write|unable to migrate objects|transaction failed|unkn?own failure"
    r"|invalid new value provided|missing necessary objects|bad pack|unpacker error|shallow error"
    r"|Unable to create .*\.lock|proc-receive|[Ii]nternal [Ss]erver [Ee]rror"
)
"""A server's reasons if it could not update the branch: another process held a lock, a disk was full, or the
branch had moved. It did not refuse the push, so another may succeed. Git writes `unkown`."""
_NEVER_UNPACKED = r"exceeds maximum allowed size|fsck error|bad object|zeroPaddedFilemode"
"""A server's words about a pack that it will not take however often it is sent."""

_UNUSABLE = (
    r"mismatched algorithms|unknown object format|unsupported object format|mismatched object format"
    r"|does not support algorithm|does not support this repository's (object format|hash algorithm)"
)
_UNAUTHORIZED = r"Authentication failed for|could not read (Username|Password) for"
_NOT_FOUND = r"repository '[^']*' (not found|does not exist)|does not appear to be a git repository"
_BRANCH_GONE = (
    r"couldn't find remote ref (?P<fetched>\S+)"
    r"|Remote (?:branch|revision) (?P<cloned>\S+) not found in upstream"
    r"|no such remote ref (?P<wanted>\S+)"
)
_OURS = (
    r"No space left on device|Disk quota exceeded|Read-only file system|Too many open files"
    r"|Cannot allocate memory|Out of memory|died of signal|unable to fork|unable to create thread"
    r"|can't start thread|unable to find remote helper|transport '[^']*' not allowed"
    r"|unable to update local ref|some local refs could not be updated|^error: cannot lock ref"
    r"|src refspec .* does not match any|could not create (leading directories|work tree dir)"
    r"|unable to create '|unable to create temporary file"
    r"|unable to write (parameters|new index)|unable to update HEAD|^usage:|^error: unknown option|^BUG:"
)
"""Texts about this machine and not about the forge."""


class RemoteMovedError(ForgeError):
    """Someone else pushed to our branch; nothing was overwritten. The next attempt continues from there."""


class RepositoryUnusableError(ForgeError):
    """Git works with the forge, but not with this repository; the message says why."""


class BranchGoneError(ForgeNotFoundError):
    """The repository does not have a branch that its facts name: they are old, or the branch was deleted."""


class GitFailedError(CodingAgentError):
    """Git failed on this machine, without a request to a forge or through no fault of the forge."""


def without_trace(output: str) -> tuple[str, dict[str, str]]:
    """Return git's output without `GIT_TRACE_CURL`'s lines, and the headers of the last answer in lower case.

    Git's messages have no header, so a forge's Retry-After is only in the trace. A line of it has a time, the
    place in git's sources, and a direction (git's `trace.c` and `http.c`).
    """
    headers: dict[str, str] = {}
    for line in re.findall(rf"{_TRACE}<= Recv header: (.*)", output):
        name, colon, value = line.partition(":")
        if line.startswith("HTTP/"):
            headers = {}
        elif colon:
            headers[name.strip().lower()] = value.strip()
    return re.sub(rf"{_TRACE}(<=|=>|==) .*\n?", "", output), headers


def classify(
    output: str, url: str, headers: Mapping[str, str] = MappingProxyType({}), now: datetime | None = None
) -> CodingAgentError:
    """Return the error that git's output about a remote stands for. `output` must be redacted.

    A server's own text follows `remote:`, and is never taken for git's.

    Args:
        headers: those of the last answer, with names in lower case.
        now: the present time, for a Retry-After that is a date.
    """
    server = [line for line in re.findall(_SERVER, output, re.MULTILINE) if line]
    said = re.sub(_SERVER, "", output, flags=re.MULTILINE)
    declined = re.search(_DECLINED, said, re.MULTILINE)
    if declined is not None:
        return _declined(declined[1], server, url)
    if re.search(_REJECTED, said, re.MULTILINE):
        return _moved(url)
    if re.search(_UNUSABLE, said):
        return sha_256_ids(url)
    found = re.search(r"returned error: (\d{3})|HTTP (\d{3}) ", said)
    if found is not None:
        status = int(found[1] or found[2])
        if limited := _limited(status, url, headers, now or datetime.now(UTC)):
            return limited
        return _of_status(status, said, server, url)
    if re.search(_UNAUTHORIZED, said):
        return _unauthorized(url, 401)
    if re.search(_NOT_FOUND, said):
        return _not_found(url, 404)
    if gone := re.search(_BRANCH_GONE, said, re.IGNORECASE):
        name = next(name for name in gone.groups() if name)
        return branch_gone(url, name.removeprefix("refs/heads/"))
    if re.search(_OURS, said, re.MULTILINE):
        return GitFailedError(f"Git failed on this machine: {shorten(said)}")
    return ForgeUnavailableError(f"{url} cannot be reached with git: {shorten(output)}")


def _declined(reason: str, server: list[str], url: str) -> ForgeError:
    words = shorten("\n".join([*server, f"({reason})"]))
    if re.search(_MOVED, reason):
        return _moved(url)
    if re.search(_UNDECIDED, reason) and not re.search(_NEVER_UNPACKED, "\n".join(server)):
        return ForgeUnavailableError(f"{url} could not carry out the push: {words}")
    return ForgeRefusedError(f"{url} declined the push: {words}")


def _limited(
    status: int, url: str, headers: Mapping[str, str], now: datetime
) -> ForgeUnavailableError | None:
    """Return the error for a forge that limits the rate of requests, or asks for a wait; else `None`."""
    if rate_limited(status, headers, b""):
        asked = retry_after(headers, now)
        limited = f"{url} limits the rate of git's requests ({status})."
        alone = f"{limited} It is left alone for {LIMITED_WAIT:.0f} s."
        return ForgeUnavailableError(
            with_asked_wait(limited, asked) if asked else alone,
            status=status,
            retry_after=asked or LIMITED_WAIT,
        )
    if status >= 500 and (asked := retry_after(headers, now)):
        return ForgeUnavailableError(
            with_asked_wait(f"{url} cannot be reached with git ({status}).", asked),
            status=status,
            retry_after=asked,
        )
    return None


def _of_status(status: int, said: str, server: list[str], url: str) -> ForgeError:
    if status in (401, 403, 407):
        return _unauthorized(url, status)
    if status in REDIRECTED:
        return ForgeRefusedError(
            f"{url} redirects to another address, and the token is not sent there; configure that address.",
            status=status,
        )
    if status in (404, 410):
        return _not_found(url, status)
    words = shorten("\n".join([*server, said]))
    if status in (408, 425, 429) or status >= 500:
        return ForgeUnavailableError(f"{url} cannot be reached with git: {words}", status=status)
    # 413: the pack is larger than a proxy or the forge accepts.
    return rejection(f"{url} did not accept git's request ({status}): {words}", status)


def _moved(url: str) -> RemoteMovedError:
    return RemoteMovedError(f"The branch on {url} was changed by someone else in the meantime.")


def _unauthorized(url: str, status: int) -> ForgeRefusedError:
    return ForgeRefusedError(f"{url} refused the credentials, or they lack a permission.", status=status)


def _not_found(url: str, status: int) -> ForgeNotFoundError:
    return ForgeNotFoundError(
        f"There is no repository {url}, or these credentials cannot see it.", status=status
    )


def branch_gone(url: str, name: str) -> BranchGoneError:
    """Return the error that a branch stands for which the repository does not have."""
    return BranchGoneError(f"{url} has no branch {name} any more: it was deleted or renamed.")


def sha_256_ids(url: str) -> RepositoryUnusableError:
    """Return the error that a repository with ids of another format than SHA-1 stands for."""
    return RepositoryUnusableError(
        f"{url} has commits with SHA-256 ids, and only repositories with SHA-1 ids are supported."
    )


def shorten(said: str) -> str:
    """Return the last lines of a text as one line of at most 400 characters."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(lines[-4:])[:400] or "no reason was given"


async def with_present_branches(
    action: Callable[[], Awaitable[_T]],
    *,
    clock: Clock,
    logger: logging.Logger,
    unless: Callable[[], bool] = lambda: False,
) -> _T:
    """Run an action that reads the names of branches first, and again if such a branch is not there.

    Args:
        unless: whether the action must not run again.

    Raises:
        BranchGoneError: the branch is still not there: it was deleted.
        Otherwise what the action raises.
    """
    return await retry(
        action,
        _RENAMING,
        clock,
        retryable=lambda error: isinstance(error, BranchGoneError) and not unless(),
        before_wait=lambda error, seconds, _: logger.warning(
            "The item and its branches are read again in %.0f s: %s", seconds, error
        ),
    )
