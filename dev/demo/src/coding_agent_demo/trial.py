"""`make trial`: the coding agent with a repository that you own, on your own forge, with a scripted model.

It opens two issues, and the agent works on them: label, poll, change, comment on the change, label removed.
You act as the person, in your browser, or a second token does. In the end it closes and deletes all that it
made, and writes a report without any token that can be pasted into an issue.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform as machine
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.errors import CodingAgentError, ForgeNotFoundError
from coding_agent_core.forge.values import MARKER, Permission
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.calls import Call, Repeat, ResponseModel, path
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.responses import ItemResponse
from rich.console import Console

from coding_agent_demo.forges import ROOT
from coding_agent_demo.processes import LOGS, DemoError, free_ports, process

_PERSON_TOKEN = "TRIAL_PERSON_TOKEN"
_PASSED_ON = (
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
)
"""Variables of the person that the agent needs to reach the forge."""
_MODEL_KEY = "trial-key"
_GIT_SECONDS = 60
_LABEL_PAGES = 20


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks at the forge, and the most for a step of a person and of the agent."""

    look: float = 5.0
    person: float = 900.0
    agent: float = 600.0


class _Label(ResponseModel):
    id: int
    name: str


@dataclass
class Place:
    """The repository, and what the product's client does not do there: open and remove things."""

    forge: Forge
    repository: str

    @property
    def platform(self) -> Platform:
        return self.forge.platform

    def item(self, kind: ItemKind, number: int) -> Item:
        """Name an issue or a change."""
        return Item(
            platform=self.platform,
            host=self.forge.host,
            repository=self.repository,
            kind=kind,
            number=number,
        )

    async def open_issue(self, title: str, text: str) -> tuple[Item, str]:
        """Open an issue; return it with its address."""
        body = {"title": title, self._word("body", "description"): text}
        call = Call(
            "POST", self._path("issues"), "opening an issue", json=body, repeat=Repeat.UNLESS_PROCESSED
        )
        opened = await self.forge.client.get(ItemResponse, call)
        return self.item(ItemKind.ISSUE, opened.number), opened.url

    async def close(self, item: Item) -> None:
        """Close an issue or a change."""
        noun = "issues" if item.kind is ItemKind.ISSUE else self._word("pulls", "merge_requests")
        body = {self._word("state", "state_event"): self._word("closed", "close")}
        where = self._path(noun, item.number)
        await self._send(self._word("PATCH", "PUT"), where, f"closing {item.display}", body)

    async def create_label(self, name: str) -> None:
        """Create a label, so that a person finds it in the list."""
        color = self._word("5319e7", "#5319e7")
        await self._send(
            "POST", self._path("labels"), f"creating the label {name!r}", {"name": name, "color": color}
        )

    async def delete_label(self, name: str) -> None:
        """Delete a label."""
        what = f"deleting the label {name!r}"
        key: str | int = await self._label_id(name) if self.platform is Platform.GITEA else name
        await self._send("DELETE", self._path("labels", key), what, None)

    async def comment(self, change: Item, text: str) -> None:
        """Comment on a change."""
        noun = self._word("issues", "merge_requests")
        where = self._path(noun, change.number, self._word("comments", "notes"))
        await self._send("POST", where, f"commenting on {change.display}", {"body": text})

    async def delete_branch(self, branch: str, folder: Path) -> None:
        """Delete a branch with git."""
        source = await self.forge.clone_source(self.repository)
        secret = f"!f() {{ echo username={source.username}; echo password=$TRIAL_GIT_TOKEN; }}; f"
        command = ["git", "-c", "credential.helper=", "-c", f"credential.helper={secret}"]
        environment = {**os.environ, "TRIAL_GIT_TOKEN": source.token, "GIT_TERMINAL_PROMPT": "0"}
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "push", "--quiet", source.url, f":refs/heads/{branch}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"git did not delete the branch: {done.stderr.strip()[-300:]}")

    async def _label_id(self, name: str) -> int:
        """Return the number of a label, by which Gitea deletes it.

        Raises:
            ForgeNotFoundError: there is no such label.
        """
        call = Call("GET", self._path("labels"), "reading the labels", params={"limit": 50})
        for label in (await self.forge.client.entries(list[_Label], call, limit=_LABEL_PAGES)).values:
            if label.name == name:
                return label.id
        raise ForgeNotFoundError(f"{self.repository} has no label {name!r}", status=404)

    async def _send(self, method: str, where: str, what: str, body: dict[str, Any] | None) -> None:
        await self.forge.client.send(Call(method, where, what, json=body, repeat=Repeat.UNLESS_PROCESSED))

    def _path(self, *rest: str | int) -> str:
        if self.platform is Platform.GITLAB:
            return path("projects", self.repository, *rest)
        return path("repos", *self.repository.split("/", 1), *rest)

    def _word(self, github: str, gitlab: str) -> str:
        """Return a word of the forge's API, which on Gitea is the same as on GitHub."""
        return gitlab if self.platform is Platform.GITLAB else github


@dataclass
class Report:
    """What the trial saw, for an issue."""

    lines: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    problem: str = ""

    def text(self, facts: dict[str, str]) -> str:
        """Return the report as Markdown."""
        rows = [f"| {name} | {value} |" for name, value in facts.items()]
        outcome = "every step worked" if not self.problem else "**a step did not work**"
        parts = [f"## Trial: {outcome}", "", "| fact | value |", "|---|---|", *rows, ""]
        parts += ["| step | seconds | seen |", "|---|---|---|", *self.lines, ""]
        if self.problem:
            parts += ["```", self.problem, "```", ""]
        parts += (
            ["Removed everything that the trial made."] if not self.left else ["Left behind:", *self.left]
        )
        return "\n".join(parts) + "\n"


@dataclass
class Trial:
    """One walk through.

    Args:
        person: the repository with a person's token; `None`: the person acts in a browser.
    """

    place: Place
    person: Place | None
    labels: dict[str, str]
    prefix: str
    pace: Pace
    console: Console
    report: Report = field(default_factory=Report)
    _issues: list[tuple[Item, str]] = field(default_factory=list)
    _change: Item | None = None

    async def prepare(self, name: str) -> None:
        """Create the label and the two issues.

        Raises:
            DemoError: the tokens are of the same account, or an account may not push.
        """
        forge, login = self.place.forge, await self.place.forge.whoami()
        facts = await forge.branch_facts(self.place.repository, "main")
        if facts.default is None:
            raise DemoError(f"{self.place.repository} is empty: give it a first commit.")
        accounts = [login]
        if self.person is not None:
            accounts.append(await self.person.forge.whoami())
        if accounts[1:] == [login]:
            raise DemoError(f"Both tokens are of {login}: the agent ignores labels of its own account.")
        await self.place.create_label(self.labels["bot_label"])
        for work in ("write", "wait"):
            title = f"Coding agent trial {name}: {work}"
            self._issues.append(await self.place.open_issue(title, "Made by `make trial`, which removes it."))
        for account in accounts:
            if await forge.permission(self._issues[0][0], account) is not Permission.WRITE:
                raise DemoError(f"{account} may not push to {self.place.repository}: give it the role Write.")

    async def walk(self) -> None:
        """Go through all steps.

        Raises:
            DemoError: a step did not work in time.
        """
        (issue, url), (other, other_url) = self._issues
        label, forge = self.labels["bot_label"], self.place.forge
        await self._ask(
            f"Put the label “{label}” on {url}",
            lambda person: person.forge.add_label(issue, label),
            lambda: self._has(issue, label, self.labels["processing_label"], self.labels["done_label"]),
        )
        await self._see("the agent comments", lambda: self._says(issue, ""))
        branch = f"{self.prefix}issue-{issue.number}"
        change = await self._see("it opens a change", lambda: forge.find_change(issue, branch=branch))
        self._change = self.place.item(ItemKind.CHANGE, change.number)
        await self._see("it shows that it is done", lambda: self._has(issue, self.labels["done_label"]))
        first = (await forge.snapshot(self._change)).head_commit

        text = f"@{await forge.whoami()} please add a second line."
        changed = self._change
        await self._ask(
            f"Comment on {change.url}: “{text}”",
            lambda person: person.comment(changed, text),
            lambda: self._commented(changed),
        )
        await self._see("a round pushes a commit", lambda: self._head_is_not(changed, first))

        await self._ask(
            f"Put the label “{label}” on {other_url}",
            lambda person: person.forge.add_label(other, label),
            lambda: self._has(other, label, self.labels["processing_label"]),
        )
        working = self.labels["processing_label"]
        await self._see("the agent is at work", lambda: self._has(other, working))
        await self._ask(
            f"Remove the label “{working}” from {other_url}",
            lambda person: person.forge.remove_label(other, working),
            lambda: self._has_not(other, working),
        )
        await self._see("it stops", lambda: self._says(other, "cancelled"))

    async def clean(self, folder: Path) -> None:
        """Close and delete what was made. What cannot be removed is in the report."""
        await asyncio.to_thread(
            subprocess.run, ["git", "init", "--quiet"], cwd=folder, check=True, timeout=60
        )
        removals: list[tuple[str, Awaitable[None]]] = []
        if self._change is not None:
            branch = f"{self.prefix}issue-{self._issues[0][0].number}"
            removals.append((f"the change {self._change.display}", self.place.close(self._change)))
            removals.append((f"the branch `{branch}`", self.place.delete_branch(branch, folder)))
        removals += [(f"the issue {url}", self.place.close(issue)) for issue, url in self._issues]
        for name in self.labels.values():
            removals.append((f"the label “{name}”", self.place.delete_label(name)))
        for what, removal in removals:
            try:
                await removal
            except CodingAgentError as error:
                if getattr(error, "status", None) != 404:
                    self.report.left.append(f"- {what}: {error}")
            except DemoError as error:
                self.report.left.append(f"- {what}: {error}")

    async def _ask(
        self,
        what: str,
        act: Callable[[Place], Awaitable[object]],
        done: Callable[[], Awaitable[object]],
    ) -> None:
        """Let the person do something, and wait until it is done."""
        self.console.print(f"[bold]{'You' if self.person is None else 'The person'}:[/bold] {what}")
        if self.person is not None:
            await act(self.person)
        await self._until(f"person: {what}", done, self.pace.person)

    async def _see(self, what: str, condition: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for something that the agent does."""
        return await self._until(what, condition, self.pace.agent)

    async def _until(self, what: str, condition: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        began = time.monotonic()
        while not (seen := await condition()):
            if time.monotonic() - began > seconds:
                self.report.lines.append(f"| {what} | more than {seconds:.0f} | **no** |")
                raise DemoError(f"This did not happen within {seconds:.0f} s: {what}")
            await asyncio.sleep(self.pace.look)
        self.report.lines.append(f"| {what} | {time.monotonic() - began:.0f} | yes |")
        self.console.print(f"[green]seen:[/green] {what}")
        return seen

    async def _labels_of(self, item: Item) -> set[str]:
        return {label.casefold() for label in (await self.place.forge.read_state(item)).labels}

    async def _has(self, item: Item, *labels: str) -> bool:
        return bool(await self._labels_of(item) & {label.casefold() for label in labels})

    async def _has_not(self, item: Item, label: str) -> bool:
        return not await self._has(item, label)

    async def _says(self, item: Item, word: str) -> bool:
        found = await self.place.forge.find_comment(item, MARKER)
        if found is not None and "Coding agent: failed" in found.body:
            raise DemoError(f"The task failed:\n{found.body[:2000]}")
        return found is not None and word in found.body.partition("\n")[0]

    async def _commented(self, change: Item) -> bool:
        own = await self.place.forge.whoami()
        return any(comment.author != own for comment in (await self.place.forge.comments(change)).values)

    async def _head_is_not(self, change: Item, commit: str) -> bool:
        return (await self.place.forge.snapshot(change)).head_commit != commit


def scripts(name: str) -> dict[str, dict[str, Any]]:
    """What the model says: it writes a file, answers a comment, and waits on the second issue."""
    file = f"coding-agent-trial-{name}.md"
    done = {"status": "done", "summary": f"Wrote `{file}`."}
    finish = {"calls": [{"tool": "finish", "arguments": done}]}
    write = {"tool": "write_file", "arguments": {"path": file, "content": "Written by `make trial`.\n"}}
    second = {
        "tool": "write_file",
        "arguments": {"path": file, "content": "Written by `make trial`.\nTwice.\n"},
    }
    return {
        "1-round.yaml": {
            "match": r"(?m)^# (?:Pull|Merge) request \S+, review:",
            "turns": [{"calls": [second]}, finish],
        },
        "2-wait.yaml": {
            "match": f"trial {name}: wait",
            "turns": [{"calls": [{"tool": "list_files", "arguments": {"path": "."}}], "delay_ms": 600_000}],
        },
        "3-write.yaml": {"match": f"trial {name}: write", "turns": [{"calls": [write]}, finish]},
    }


@contextlib.contextmanager
def running_agent(place: Place, token: str, trial: Trial, name: str, folder: Path) -> Iterator[None]:
    """Run the scripted model and the agent, which polls the repository. The token is in no file.

    Raises:
        DemoError: one of them does not come up.
    """
    model_port, port = free_ports(2)
    forge, api_url = place.platform.value, place.forge.settings.api_url
    urls = [f"http://127.0.0.1:{number}" for number in (model_port, port)]
    told = folder / "scripts"
    told.mkdir()
    for file, script in scripts(name).items():
        (told / file).write_text(yaml.safe_dump(script), encoding="utf-8")
    owner, _, repository = place.repository.rpartition("/")
    scope = {
        Platform.GITHUB: {"owner": owner, "query": f"repo:{owner}/{repository}"},
        Platform.GITLAB: {"project_id": place.repository},
        # Gitea's search cannot be limited to a repository, but the trial's labels are in no other.
        Platform.GITEA: {"owner": owner},
    }[place.platform]
    quick = max(1, round(trial.pace.look))
    settings = {
        "task_source": forge,
        forge: {"api_url": api_url, **trial.labels, **scope},
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            forge: {FACTS[place.platform].webhook_setting: secrets.token_urlsafe()},
        },
        "scheduling": {"interval": quick * 2},
        "llm": {"openai": {"base_url": f"{urls[0]}/v1", "api_key": _MODEL_KEY, "model": "scripted"}},
        "context_storage": {"base_dir": "contexts"},
        "consumer": {"branch_prefix": trial.prefix},
        "development": {"cancel_check_interval": quick},
        "rounds": {"enabled": True, "interval": quick * 2, "review_quiet": quick, "checks_quiet": quick},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    given = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    python = [sys.executable, "-u"]
    model = ["-m", "coding_agent_testbed.model", "--port", str(model_port), "--scripts", str(told)]
    agent = [str(ROOT / "main.py"), "--config", str(config), "--mode", "webhook"]
    secret = {_variable(place.platform): token}
    with (
        process(folder, "model", [*python, *model, "--api-key", _MODEL_KEY], f"{urls[0]}/_sandbox/usage"),
        process(folder, "agent", [*python, *agent], f"{urls[1]}/readyz", variables=given | secret),
    ):
        yield


def _variable(platform: Platform) -> str:
    return f"{platform.value.upper()}_PERSONAL_ACCESS_TOKEN"


def connected(platform: Platform, api_url: str, token: str, prefix: str) -> Forge:
    """Return a client with this token."""
    section = {"personal_access_token": token} | ({"api_url": api_url} if api_url else {})
    settings = {platform.value: section, "consumer": {"branch_prefix": prefix}}
    return connect_forge(Settings.model_validate(settings), platform)


async def run(arguments: argparse.Namespace, console: Console, pace: Pace) -> Report:
    """Try the agent with a repository, clean up and write the report.

    Raises:
        DemoError: a token is missing.
    """
    platform = Platform(arguments.forge)
    token, persons = os.environ.get(_variable(platform), ""), os.environ.get(_PERSON_TOKEN, "")
    if not token:
        raise DemoError(f"Set {_variable(platform)} to the token of the agent's own account.")
    name = secrets.token_hex(2)
    prefix = f"coding-agent-trial-{name}/"
    repository = f"{arguments.owner}/{arguments.repo}"
    states = {
        "bot_label": "",
        "processing_label": " working",
        "done_label": " done",
        "failed_label": " failed",
    }
    labels = {setting: f"trial {name}{ending}" for setting, ending in states.items()}
    folder = Path(tempfile.mkdtemp(prefix="coding-agent-trial-"))
    async with contextlib.AsyncExitStack() as stack:
        places = []
        for each in (token, persons):
            if each:
                forge = connected(platform, arguments.api_url, each, prefix)
                stack.push_async_callback(forge.aclose)
                places.append(Place(forge, repository))
        trial = Trial(places[0], places[1] if persons else None, labels, prefix, pace, console)
        began = datetime.now(UTC)
        try:
            await trial.prepare(name)
            with running_agent(places[0], token, trial, name, folder):
                await trial.walk()
        except (DemoError, CodingAgentError) as error:
            trial.report.problem = str(error).replace(token, "[token]")
            console.print(f"The logs are in {folder / LOGS}; look for private text before you share them.")
        finally:
            await trial.clean(folder)
    facts = {
        "forge": f"{FACTS[platform].title}, {'its own host' if arguments.api_url else places[0].forge.host}",
        "from": f"{began:%Y-%m-%d %H:%M} to {datetime.now(UTC):%H:%M} UTC",
        "coding agent": version("coding-agent-core"),
        "Python": machine.python_version(),
        "person": "a second token" if persons else "in a browser",
    }
    Path(arguments.report).write_text(trial.report.text(facts), encoding="utf-8")
    if not trial.report.problem:  # only a trial that did not work leaves its logs behind
        shutil.rmtree(folder, ignore_errors=True)
    console.print(f"The report is in {arguments.report}.")
    return trial.report


def main() -> int:
    """Run the trial; 0 when every step worked and nothing is left behind."""
    parser = argparse.ArgumentParser(prog="make trial", description=__doc__)
    parser.add_argument("--forge", choices=[one.value for one in Platform], required=True)
    parser.add_argument("--owner", required=True, help="user, organization or group; you own it")
    parser.add_argument("--repo", required=True, help="a repository in which nothing can go wrong")
    parser.add_argument("--api-url", default="", help="of your own server")
    parser.add_argument("--report", default="trial-report.md")
    parser.add_argument("--look", type=float, default=Pace.look, help="seconds between two looks")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(highlight=False)
    try:
        report = asyncio.run(run(arguments, console, Pace(look=arguments.look)))
    except DemoError as error:
        console.print(f"[red]The trial did not begin.[/red] {error}")
        return 1
    if report.problem:
        console.print(f"[red]The trial did not work.[/red] {report.problem}")
    return 1 if report.problem or report.left else 0


if __name__ == "__main__":
    sys.exit(main())
