"""Run git as the agent, which has the credentials: a fixed environment, bounded time, and typed errors.

Git ignores what a repository or this machine's configuration says: no hooks, no filters, no helpers, no
system or user configuration, no protocol except HTTP(S), no redirects. The token reaches git only through
its environment, never through its arguments, a file, or a message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from coding_agent_core.errors import ForgeError, ForgeRefusedError, ForgeUnavailableError, SettingsError
from coding_agent_core.forge.values import CloneSource
from coding_agent_core.runtime.retry import Clock, Deadline

from coding_agent_consumer.repository.git_errors import (
    REDIRECTED,
    GitFailedError,
    classify,
    shorten,
    without_trace,
)


class Credentials(Protocol):
    """Gives the repository's address and the token that is valid now.

    It is called before each run of git, because a token may be replaced, and the repository renamed, while an
    attempt works.
    """

    async def __call__(self, refused: str, /, *, redirected: bool = False) -> CloneSource:
        """Return the repository's address and the token.

        Args:
            refused: a token that the forge did not accept, so another one is needed; or empty.
            redirected: whether the forge redirected git from the last address.
        """


_TIMEOUT = 600.0
"""Seconds that one run of git may take."""
_MAX_ERROR = 64 * 1024
_PASSED_ON = (
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
)
"""Variables that git needs to reach the forge: proxies and certificate authorities."""

_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.askPass": "",
    "core.sshCommand": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.autocrlf": "false",
    "credential.helper": "",
    "protocol.allow": "never",
    "protocol.http.allow": "always",
    "protocol.https.allow": "always",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",  # all that is fetched is a pack, which a workspace gets as it is
    "push.recurseSubmodules": "no",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "commit.gpgSign": "false",
    "apply.whitespace": "nowarn",
    "init.defaultBranch": "main",
    "init.templateDir": "",
}


@dataclass(eq=False)
class Quiet:
    """The time for which a forge has asked git to send no request. Until then, each one fails at once."""

    clock: Clock = field(default_factory=Clock)
    _error: ForgeError | None = None
    _over: Deadline | None = None

    def begin(self, error: ForgeError, seconds: float) -> None:
        """Begin to be quiet, because of this error."""
        self._error, self._over = error, Deadline.after(seconds, self.clock)

    def require_over(self) -> None:
        """Return if a request may be sent.

        Raises:
            ForgeUnavailableError: the time is not over; `retry_after` says how long it still is.
        """
        if self._error is not None and self._over is not None and not self._over.passed:
            raise ForgeUnavailableError(
                str(self._error), status=self._error.status, retry_after=self._over.left
            )


@dataclass(frozen=True)
class Git:
    """Git on one bare repository.

    Attributes:
        directory: the bare repository. Its parent folder is git's HOME and contains no configuration.
        credentials: credentials for the forge that the repository came from.
        quiet: the time for which the forge asked us to send no request.
    """

    directory: Path
    credentials: Credentials
    quiet: Quiet = field(default_factory=Quiet)

    async def local(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        memory: int | None = None,
        expected: Sequence[int] = (0,),
    ) -> bytes:
        """Run git without the network and without the token; return its output.

        Args:
            memory: limit of git's heap in bytes. The packs that git maps do not count.
            expected: the exit statuses that are not failures.

        Raises:
            GitFailedError: git failed, was killed, or ran out of time or memory.
        """
        base = git_environment(os.environ, self.directory.parent, token=None)
        try:
            code, out, said = await self._run(arguments, stdin, {**base, **(env or {})}, memory)
        except TimeoutError as error:
            raise GitFailedError(f"git {arguments[0]} took more than {_TIMEOUT:.0f} s.") from error
        if code not in expected:
            raise GitFailedError(f"git {arguments[0]} {_ended(code, said, memory)}")
        return out

    async def local_id(self, *arguments: str, **options: Any) -> str:
        """Run git as `local` does, and return its output, which is the id of one object."""
        return (await self.local(*arguments, **options)).decode("ascii").strip()

    async def remote(self, command: Sequence[str], *rest: str) -> bytes:
        """Run git against the forge, and once more if token or address were replaced meanwhile.

        Git follows no redirect: it would follow one to another host with the token. If it meets one, the
        forge is asked for the repository's present address.

        Args:
            command: the part before the repository's URL.
            rest: the part after it.

        Raises:
            ForgeUnavailableError: the forge is unreachable or overloaded, or git ran out of time. If it asked
                for a wait, `retry_after` has the seconds, and no request is sent before they are over.
            ForgeRefusedError: the token is wrong or lacks a right, or the forge declined the push.
            ForgeNotFoundError: there is no such repository for this token.
            BranchGoneError: the repository does not have the branch.
            RemoteMovedError: a push was not a fast-forward.
            GitFailedError: git failed through no fault of the forge, e.g. because the disk is full.
            SettingsError: there is no longer a token.
        """
        self.quiet.require_over()
        source = await self.credentials("")
        try:
            return await self._remote(source, command, rest)
        except ForgeRefusedError as error:
            # An App's token may have expired or been revoked during a long clone.
            refused = source.token if error.status == 401 else ""
            now = await self.credentials(refused, redirected=error.status in REDIRECTED)
            if now == source:
                raise
            return await self._remote(now, command, rest)

    async def _remote(self, source: CloneSource, command: Sequence[str], rest: Sequence[str]) -> bytes:
        env = git_environment(os.environ, self.directory.parent, token=source)
        try:
            code, out, said = await self._run((*command, source.url, *rest), b"", env)
        except TimeoutError as error:
            raise ForgeUnavailableError(
                f"{source.url} did not finish git {command[0]} within {_TIMEOUT:.0f} s."
            ) from error
        # A broken pipe is an end of the connection, and not a failure of this machine.
        if code < 0 and code != -signal.SIGPIPE:
            said, _ = without_trace(redact(said, source))
            raise GitFailedError(f"git {command[0]} {_ended(code, said, None)}")
        if code != 0:
            said, headers = without_trace(said)
            text = redact(said + "\n" + out[-_MAX_ERROR:].decode("utf-8", "replace"), source)
            with contextlib.suppress(SettingsError, ForgeError):
                # git may have printed a token that was renewed in the meantime.
                text = redact(text, await self.credentials(""))
            problem = classify(text, source.url, headers)
            if isinstance(problem, ForgeError) and problem.retry_after:
                self.quiet.begin(problem, problem.retry_after)
            raise problem
        return out

    async def _run(
        self, arguments: tuple[str, ...], stdin: bytes, env: Mapping[str, str], memory: int | None = None
    ) -> tuple[int, bytes, str]:
        """Return git's exit status, its output, and the end of its error output."""
        process = await asyncio.create_subprocess_exec(
            "git",
            "--git-dir",
            str(self.directory),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.directory.parent,
            env=dict(env),
            start_new_session=True,
        )
        try:
            if memory is not None:
                # Set the limit before git gets its input, and so needs memory. Git may have ended already.
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory, memory))
            async with asyncio.timeout(_TIMEOUT):
                out, err = await process.communicate(stdin)
        finally:
            # This ends git's helpers (git-remote-http) too, also when we are cancelled.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = await process.wait()
        return code, out, err[-_MAX_ERROR:].decode("utf-8", "replace")


def git_environment(inherited: Mapping[str, str], home: Path, *, token: CloneSource | None) -> dict[str, str]:
    """Return the whole environment of git.

    Args:
        inherited: our own environment, of which only the variables in `_PASSED_ON` are passed on.
        home: a folder without configuration and without `.netrc`.
        token: the source whose token is sent, and only to URLs below the source's; `None`: no token is sent.
    """
    config = dict(_CONFIG)
    if token is not None:
        basic = base64.b64encode(f"{token.username}:{token.token}".encode()).decode("ascii")
        # The header is in the environment: arguments are visible to every process, and a file stays behind.
        config[f"http.{token.url}.extraHeader"] = f"Authorization: Basic {basic}"
    env = {name: inherited[name] for name in _PASSED_ON if name in inherited}
    if token is not None:
        # The headers of answers, without data, follow git's messages on stderr; nothing is written to a file.
        env |= {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
    if authorities := env.get("SSL_CERT_FILE"):
        # Python's variable for trusted authorities. Git does not know it and has its own.
        env.setdefault("GIT_SSL_CAINFO", authorities)
    env |= {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        # `ext::` in a URL would run a program, and `file:` would read our disk.
        "GIT_ALLOW_PROTOCOL": "http:https",
        # Without a terminal, git would wait for a password until its time is over.
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_CONFIG_COUNT": str(len(config)),
    }
    for number, (key, value) in enumerate(config.items()):
        env[f"GIT_CONFIG_KEY_{number}"] = key
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    return env


def redact(text: str, source: CloneSource) -> str:
    """Return the text without the token in any form that git could print."""
    basic = base64.b64encode(f"{source.username}:{source.token}".encode()).decode("ascii")
    for secret in (source.token, basic):
        if secret:
            text = text.replace(secret, "[secret]")
    return text


def pack_files(git: Git) -> list[Path]:
    """Return the packs of a repository; none if there is no repository yet."""
    return sorted((git.directory / "objects" / "pack").glob("pack-*.pack"))


async def packed(git: Git, commits: Sequence[str], folder: Path, *, but: Sequence[str] = ()) -> Path:
    """Write a pack with all objects of commits into a folder, and return its path; its index is beside it.

    Args:
        but: commits whose objects are left out.

    Raises:
        GitFailedError: git could not pack them.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    revisions = "".join(f"{line}\n" for line in (*commits, *(f"^{commit}" for commit in but)))
    # Existing deltas are kept: finding better ones would take longer than a fetch.
    name = await git.local_id(
        *("pack-objects", "--quiet", "--revs", "--window=0", "--delta-base-offset", str(folder / "pack")),
        stdin=revisions.encode("ascii"),
    )
    return folder / f"pack-{name}.pack"


def _ended(code: int, said: str, memory: int | None) -> str:
    """Return how a failed run of git ended, as text that follows `git COMMAND`."""
    if memory is not None and re.search(r"[Oo]ut of memory|mmap failed: Cannot allocate", said):
        return f"needed more than {memory // 2**20} MiB of memory."
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), most likely because the agent's container ran out of memory."
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}: {shorten(said)}"
    return f"failed: {shorten(said)}"
