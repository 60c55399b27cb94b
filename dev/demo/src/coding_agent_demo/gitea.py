"""The real Gitea of a demo, with a CI that is a script."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.platforms.registry import Platform
from coding_agent_testbed.errors import TestbedError
from coding_agent_testbed.forge.seed import read_issue
from coding_agent_testbed.gitea import (
    BUILD_TIME,
    Account,
    Api,
    GiteaError,
    GiteaServer,
    Program,
    WebSession,
    find,
    make_sample,
    prepare,
)
from rich.console import Console

from coding_agent_demo.forges import HOOK_SECRET, ISSUES, LABEL, REPOSITORY, DemoForge
from coding_agent_demo.gitea_ci import GiteaCi
from coding_agent_demo.processes import LOGS, DemoError


@dataclass(frozen=True, kw_only=True)
class RealGitea(DemoForge):
    """Alice logs in to its pages with her password."""

    alice: Account = field(repr=False)

    def how_to_label(self, issue: str) -> str:
        number = issue.rpartition("/")[2]
        # Menus need scripts, which Gitea's Go module does not have.
        return (
            f"{issue}  (log in as {self.alice.login}, password {self.alice.password}). The menus of this"
            " build do not open; this puts the label on it:\n"
            f"curl -H 'authorization: token {self.person_token}' --json '{{\"labels\": [\"{LABEL}\"]}}'"
            f" {self.api_url}/repos/{REPOSITORY}/issues/{number}/labels"
        )

    def comment_on_line(self, change: ChangeSnapshot, path: str, line: int, text: str) -> None:
        with _explained(), self._page() as page:
            page.comment_line(change.item.number, path, line, text)
            page.review(change.item.number, "reject")

    def approve_and_merge(self, change: ChangeSnapshot) -> None:
        with _explained(), self._page() as page:
            page.review(change.item.number, "approve")
        # `merge` waits until Gitea has looked for conflicts; until then, the page refuses to merge.
        with _explained(), Api(self.api_url, self.person_token) as api:
            api.merge(REPOSITORY, change.item.number)

    def _page(self) -> WebSession:
        return WebSession(self.url, REPOSITORY, self.alice)


@contextlib.contextmanager
def running_gitea(
    console: Console, folder: Path, hook: str, checks: Mapping[str, str]
) -> Iterator[RealGitea]:
    """Run Gitea until the block ends; the first time on a machine, build it.

    Args:
        console: says that it is built, and how long this takes.
        folder: for its data.
        hook: the address for its webhooks.
        checks: the commands that the CI runs on each new head of a pull request, by name.

    Raises:
        DemoError: it cannot be built, or does not come up.
    """
    with contextlib.ExitStack() as stack:
        with _explained():
            server = stack.enter_context(GiteaServer(folder / "gitea", program=_program(console)))
            sample = make_sample(server, REPOSITORY)
            admin = stack.enter_context(server.api())
            admin.add_collaborator(REPOSITORY, sample.bot.login, "admin")
            admin.add_hook(REPOSITORY, hook, HOOK_SECRET)
            with server.api(sample.maintainer) as alice:
                for file, labels in zip(ISSUES, (["bug"], []), strict=True):
                    alice.create_issue(REPOSITORY, *read_issue(file), labels)
            version = admin.call("GET", "/version")["version"]
        repository = server.repository_folder(REPOSITORY)
        if checks:
            stack.enter_context(GiteaCi(admin, REPOSITORY, repository, checks, folder / LOGS / "ci.log"))
        yield RealGitea(
            platform=Platform.GITEA,
            title=f"real Gitea {version}",
            url=server.url,
            api_url=server.api_url,
            repository=repository,
            bot_token=sample.bot.token,
            person_token=sample.maintainer.token,
            bot_settings={"account": sample.bot.login},
            alice=sample.maintainer,
        )


def _program(console: Console) -> Program:
    try:
        return find()
    except GiteaError:
        console.print(
            "Gitea is not in the cache of built programs. It is built once, from its Go module, in"
            f" {BUILD_TIME}."
        )
        return prepare()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (TestbedError, httpx2.HTTPError) as error:
        raise DemoError(str(error)) from error
