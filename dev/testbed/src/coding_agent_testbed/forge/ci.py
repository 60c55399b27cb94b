"""A small CI: runs shell commands on each new head of an open change, and reports them as checks with logs.

The seed names the commands, but they run the code that was pushed, with the rights of this process. So use it
only where a script decides what is pushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.model import CheckHappening, Happening, Kind, Repository
from coding_agent_testbed.forge.reviews import Reviews

COMMAND_TIMEOUT = 60.0
"""Seconds for one command."""
_LOG_LIMIT = 1_000_000
"""Bytes; a longer log loses its beginning."""
_FILE_LIMIT = 64 * 1024 * 1024
"""The most bytes that a command may write into a file."""

_logger = logging.getLogger("forge")


@dataclass
class ContinuousIntegration:
    """Runs the commands, and reports them as checks."""

    reviews: Reviews
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def see(self, happening: Happening) -> None:
        """Run all commands of the repository if a change has a new head."""
        item = happening.item
        if item.kind is Kind.CHANGE and happening.action in ("opened", "synchronized"):
            for name in happening.repository.ci:
                self._start(happening.repository, item.tips.head_sha, name)

    def see_check(self, happening: CheckHappening) -> None:
        """Run a command again if somebody asked for it."""
        check = happening.check
        if happening.began and check.queued and check.name in happening.repository.ci:
            self._start(happening.repository, check.sha, check.name)

    async def stop(self) -> None:
        """Cancel the commands that still run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, repository: Repository, sha: str, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run(repository, sha, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, repository: Repository, sha: str, name: str) -> None:
        self.reviews.add_check(repository, sha, name, log=b"")
        try:
            with tempfile.TemporaryDirectory(prefix="forge-ci-") as scratch:
                tree = Path(scratch) / "tree"
                tree.mkdir()
                await asyncio.to_thread(git.check_out, repository.path, sha, tree)
                result, log = await output_of(repository.ci[name], tree, Path(scratch) / "log")
        except Exception as error:
            # A check without an end would hold back everything that waits for it.
            _logger.exception("The check %s of %s broke", name, sha)
            result, log = "failure", f"{error}\n".encode()
        self.reviews.add_check(repository, sha, name, result, log=log)


async def output_of(command: str, folder: Path, log: Path) -> tuple[str, bytes]:
    """Run a command; its result in GitHub's words, and the end of its log.

    The command writes into a file, so what it wrote before a time-out is there, and a command that writes
    without an end takes no memory. The file is limited to the size that the shell may write.
    """
    limited = f"ulimit -f {_FILE_LIMIT // 512}; {command}"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", limited),
            cwd=folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            result = "failure" if await process.wait() else "success"
    except TimeoutError:
        result = "timed_out"
    finally:
        # The shell can leave children behind, even if it has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    with log.open("rb") as written:
        written.seek(max(0, log.stat().st_size - _LOG_LIMIT))
        return result, f"$ {command}\n".encode() + written.read()
