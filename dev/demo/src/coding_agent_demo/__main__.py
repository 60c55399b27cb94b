"""`make demo`: label in, pull request out, on this machine, without any account or network."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from coding_agent_core.platforms.registry import FACTS, Platform
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax

from coding_agent_demo.forges import LABEL
from coding_agent_demo.person import Person
from coding_agent_demo.processes import DemoError
from coding_agent_demo.programs import CACHE, PACKAGES, program_folder, version_of
from coding_agent_demo.review_story import ReviewStory
from coding_agent_demo.screen import Screen
from coding_agent_demo.story import Story
from coding_agent_demo.world import ROUNDS, Runner, World, running_world

_TIMEOUT = 250.0
_LOCAL_MODEL = "a real but tiny model (SmolLM2-135M-Instruct)"
_REFUSED_WITH_LOCAL = {"gitea", "codex", "gemini", "review"}
_LOCAL_LIMITS = (
    "it can do one trivial issue, with a sandbox forge and the built-in agent, claude-code or opencode."
)


def main() -> int:
    """Run the demo; 0 when everything that the story tells has happened."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--forge", choices=[one.value for one in Platform], default="github")
    parser.add_argument(
        "--runner",
        choices=["builtin", *PACKAGES],
        default="builtin",
        help="the coding agent; npm installs it",
    )
    parser.add_argument(
        "--story",
        choices=["label", "review"],
        default="label",
        help="label: until the change is there; review: a check fails, a person comments, until the merge",
    )
    parser.add_argument(
        "--model",
        choices=["scripted", "local"],
        default="scripted",
        help="local: a small real model on this machine, which can do no more than a trivial issue",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    arguments = parser.parse_args()
    local = arguments.model == "local"
    refused = _REFUSED_WITH_LOCAL & {arguments.forge, arguments.runner, arguments.story} if local else set()
    if refused:
        parser.error(f"MODEL=local does not go with {', '.join(sorted(refused))}: {_LOCAL_LIMITS}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="coding-agent-demo-"))
    try:
        runner = _installed(console, arguments.runner)
        review = arguments.story == "review"
        platform = Platform(arguments.forge)
        with running_world(console, platform, folder, runner, rounds=review, local_model=local) as world:
            if review:
                _show_review(console, world)
            else:
                _show(console, world, _LOCAL_MODEL if local else "a scripted model")
            if arguments.keep:
                _keep(console, world)
            else:
                story = " STORY=review" if review else ""
                program = "" if arguments.runner == "builtin" else f" RUNNER={arguments.runner}"
                model = " MODEL=local" if local else ""
                keep = f"make demo KEEP=1 FORGE={arguments.forge}{program}{story}{model}"
                console.print(f"Its pages disappear when the demo ends; `{keep}` leaves everything running.")
        # Only a demo that did not work leaves its logs behind.
        shutil.rmtree(folder, ignore_errors=True)
    except DemoError as error:
        console.print(f"[red]The demo did not work.[/red] {error}", highlight=False)
        return 1
    return 0


def _installed(console: Console, name: str) -> Runner | None:
    if name == "builtin":
        return None
    version = version_of(name)
    console.print(f"{PACKAGES[name].name} {version} does the work; npm installs it on the first run.")
    folder = program_folder(name)
    return Runner(name, folder, CACHE / f"{name}-{version}")


def _show(console: Console, world: World, model: str) -> None:
    person = Person(world)
    screen = Screen(console, world.logs / "agent.log")
    console.print(
        Panel(
            f"A {world.forge.title} at {world.forge.url}, {model}, and the coding agent.\n"
            f"Alice puts the label “{LABEL}” on {person.issue_url()}",
            title="Label in, pull request out",
            border_style="blue",
        )
    )
    screen.tell("alice", f"puts the label “{LABEL}” on issue 1", "bold")
    person.apply_label()
    seen = Story(screen, person).follow(_TIMEOUT)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder)
        bare = str(world.forge.repository)
        _git("clone", "--quiet", "--branch", seen.change_branch, bare, str(clone))
        diff = _git("diff", "origin/main", "HEAD", cwd=clone)
        tests = subprocess.run(
            [sys.executable, "-m", "unittest"],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    console.print()
    console.print(Syntax(diff, "diff", background_color="default"))
    # The trivial issue changes no code, and one of the sample's tests is red from the start.
    if tests.returncode != 0 and not world.local_model:
        raise DemoError(f"The tests fail on the branch {seen.change_branch}:\n{tests.stderr}")
    if seen.comments != 1:
        raise DemoError(f"There are {seen.comments} comments on the issue; it should be one.")
    if not world.local_model:
        passed = next(line for line in tests.stderr.splitlines() if line.startswith("Ran "))
        console.print(f"The repository's own tests on that branch: {passed}, [green]OK[/green]")
    counted = re.search(r"\d+ model requests?, [^·\n]*(· cost [^·\n]*)?", seen.comment)
    console.print(f"The gateway counted: {counted[0].strip() if counted else 'nothing'}", highlight=False)
    noun = FACTS[world.forge.platform].change_noun.capitalize()
    console.print(f"[bold green]{noun}:[/bold green] {seen.change_url}", soft_wrap=True)


def _show_review(console: Console, world: World) -> None:
    person = Person(world)
    screen = Screen(console, world.logs / "agent.log")
    console.print(
        Panel(
            f"A {world.forge.title} with a small CI, a scripted model, and the coding agent.\n"
            f"The agent waits for {ROUNDS['checks_quiet']} s after the last check (default: 30 s), and for "
            f"{ROUNDS['review_quiet']} s\nafter the last comment (default: 60 s).",
            title="After the pull request",
            border_style="blue",
        )
    )
    screen.tell("alice", f"puts the label “{LABEL}” on {person.issue_url()}", "bold")
    person.apply_label()
    ReviewStory(screen, person).play()


def _keep(console: Console, world: World) -> None:
    issue = Person(world).issue_url()
    another = issue.removesuffix("1") + "2"
    console.print(
        Panel(
            f"Issue       {issue}\n"
            f"Webhook     {world.receiver_url}/webhook/{world.forge.platform}\n"
            f"Metrics     {world.receiver_url}/metrics\n"
            f"Transcripts {world.folder}/contexts\n"
            f"Logs        {world.logs}",
            title="Still running; press Ctrl-C to stop it",
            border_style="blue",
        )
    )
    # Outside of the panel, which would break long lines.
    console.print(f"Try it: {world.forge.how_to_label(another)}", markup=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _git(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
