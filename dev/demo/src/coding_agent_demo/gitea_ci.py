"""A CI for the demo's Gitea: a script that runs commands on each new head, and sets commit statuses.

The commands run the code that was pushed, with the rights of this process. So use it only where a script
decides what is pushed.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.ci import output_of
from coding_agent_testbed.gitea import Api, GiteaError

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 90.0
"""For a command that still runs when the demo ends."""
_DESCRIPTION_LIMIT = 250
"""Characters of a status's description, which is all that the agent and people see of a result."""


class GiteaCi:
    """Looks for new heads of open pull requests until the block ends.

    Args:
        api: of an account that may set statuses.
        repository: `OWNER/NAME`.
        bare: the repository on disk.
        checks: shell commands by the names of their statuses.
        log: a file for what went wrong.
    """

    def __init__(self, api: Api, repository: str, bare: Path, checks: Mapping[str, str], log: Path) -> None:
        self._api = api
        self._repository = repository
        self._bare = bare
        self._checks = checks
        self._log = log
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ci", daemon=True)

    def __enter__(self) -> Self:
        self._log.parent.mkdir(exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                pulls = self._api.call("GET", f"/repos/{self._repository}/pulls", state="open")
                for sha in {pull["head"]["sha"] for pull in pulls} - seen:
                    self._check(sha)
                    seen.add(sha)
            except (GiteaError, httpx2.HTTPError, OSError, subprocess.SubprocessError):
                # The story names the check that is missing; the next look tries again.
                with self._log.open("a", encoding="utf-8") as log:
                    traceback.print_exc(file=log)

    def _check(self, sha: str) -> None:
        for name in self._checks:
            self._api.set_status(self._repository, sha, "pending", name)
        for name, command in self._checks.items():
            with tempfile.TemporaryDirectory(prefix="gitea-ci-") as scratch:
                tree = Path(scratch) / "tree"
                tree.mkdir()
                git.check_out(self._bare, sha, tree)
                result, log = asyncio.run(output_of(command, tree, Path(scratch) / "log"))
            state = "success" if result == "success" else "failure"
            self._api.set_status(self._repository, sha, state, name, _gist(log))


def _gist(log: bytes) -> str:
    """Return the words of a log on one line, without the command and lines of asterisks."""
    lines = [line.strip("* ") for line in log.decode("utf-8", "replace").splitlines()[1:]]
    return " ".join(" ".join(lines).split())[:_DESCRIPTION_LIMIT]
