"""The sandbox forge of a demo, in its own process: it plays GitHub or GitLab."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import yaml
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.platforms.registry import Platform

from coding_agent_demo.forges import HOOK_SECRET, ISSUES, LABEL, REPOSITORY, SAMPLES, DemoForge
from coding_agent_demo.processes import DemoError, free_ports, process

_PAGE_SECONDS = 30.0


class Sandbox(DemoForge):
    """Its pages need no login: the first administrator, Alice, acts in them."""

    def how_to_label(self, issue: str) -> str:
        return f"{issue}  (click the label “{LABEL}”)"

    def comment_on_line(self, change: ChangeSnapshot, path: str, line: int, text: str) -> None:
        self._submit(f"{change.url}/threads", path=path, line=str(line), body=text)
        self._submit(f"{change.url}/reviews", state="CHANGES_REQUESTED")

    def approve_and_merge(self, change: ChangeSnapshot) -> None:
        self._submit(f"{change.url}/reviews", state="APPROVED")
        self._submit(f"{change.url}/merge")

    def _submit(self, url: str, **form: str) -> None:
        """Submit a form of one of the forge's pages."""
        page = self.url + urlsplit(url).path
        try:
            with urlopen(page, data=urlencode(form).encode(), timeout=_PAGE_SECONDS):
                pass
        except HTTPError as error:
            raise DemoError(f"The forge answered {error.code} to {page}: {error.read(500)!r}") from error


@contextlib.contextmanager
def running_sandbox(
    platform: Platform,
    folder: Path,
    hook: str,
    checks: Mapping[str, str],
    issues: tuple[Path, Path] = ISSUES,
) -> Iterator[Sandbox]:
    """Run the sandbox until the block ends.

    Args:
        folder: for its log, its seed and its repositories.
        hook: the address for its webhooks.
        checks: the commands that its CI runs on each new head of a change, by name.
        issues: the files with the issues 1 and 2.

    Raises:
        DemoError: it does not come up.
    """
    [port] = free_ports(1)
    prefix: str = import_module(f"coding_agent_testbed.forge.{platform}.flavour").PREFIX
    repositories = folder / "repositories"
    sandbox = Sandbox(
        platform=platform,
        title=f"sandbox {platform}",
        url=f"http://127.0.0.1:{port}",
        api_url=f"http://127.0.0.1:{port}{prefix}",
        repository=repositories / f"{REPOSITORY}.git",
        bot_token="bot-sandbox-token",
        person_token="alice-sandbox-token",
    )
    seed = folder / "seed.yaml"
    seed.write_text(yaml.safe_dump(_seed(sandbox, hook, checks, issues)), encoding="utf-8")
    command = [sys.executable, "-u", "-m", "coding_agent_testbed.forge", "--flavour", str(platform)]
    command += ["--port", str(port), "--data", str(repositories), "--seed", str(seed)]
    with process(folder, "forge", command, sandbox.url):
        yield sandbox


def _seed(
    sandbox: Sandbox, hook: str, checks: Mapping[str, str], issues: tuple[Path, Path]
) -> dict[str, object]:
    owner, _, name = REPOSITORY.partition("/")
    first, second = issues
    return {
        "users": [
            {"login": "alice", "token": sandbox.person_token, "admin": True},
            {"login": "coding-agent-bot", "token": sandbox.bot_token, "bot": True},
        ],
        "repositories": [
            {
                "owner": owner,
                "name": name,
                "files": str(SAMPLES / "pricing"),
                "roles": {"coding-agent-bot": "write"},
                "ci": dict(checks),
                "labels": [{"name": LABEL, "color": "1f6feb"}, {"name": "bug", "color": "d73a4a"}],
                "issues": [
                    {"file": str(first), "author": "alice", "labels": ["bug"]},
                    {"file": str(second), "author": "alice"},
                ],
            }
        ],
        "hooks": [{"repository": REPOSITORY, "url": hook, "secret": HOOK_SECRET}],
    }
