"""The system without Kubernetes beside a real Gitea, as stories of its main job need it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.task.agenttask import KIND, AgentTask
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.model.server import ModelServer
from coding_agent_testbed.until import until

from tests.fixtures.preloaded import start_main
from tests.fixtures.system import BOT, DONE, MODEL_KEY, PROCESSING, SECRET, Program

SECONDS = 300.0
"""A busy machine can keep Gitea from answering for longer than our client waits for one request."""
OTHERS = {BOT, PROCESSING, DONE}


@dataclass
class World:
    """A running system, and Gitea as a person sees it."""

    programs: list[Program]
    model: ModelServer
    alice: Any
    repository: str
    bot: str
    """The bot's login."""
    gate: Path
    tasks: ObjectFile | None
    """The tasks of one machine; `None` with a broker."""

    def labels(self, number: int) -> set[str]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/labels")
        return {label["name"] for label in found} & OTHERS

    def until_labels(self, number: int, *labels: str) -> None:
        until(
            lambda: f"{labels}: {self.labels(number)}; {self}",
            lambda: self.labels(number) == set(labels),
            timeout=SECONDS,
        )

    def comments(self, number: int) -> list[str]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/comments")
        return [comment["body"] for comment in found]

    def ends(self, number: int) -> list[tuple[str, str]]:
        ours = [body for body in self.comments(number) if MARKER in body]
        assert len(ours) <= 1
        state = read_state(ours[0]) if ours else None
        rounds = state.rounds.rounds if state and state.rounds else ()
        return [(entry.kind, entry.end) for entry in rounds]

    def until_ends(self, number: int, *ends: tuple[str, str]) -> None:
        until(
            lambda: f"{ends}: {self.ends(number)}; {self}",
            lambda: self.ends(number) == list(ends),
            timeout=SECONDS,
        )

    def history(self, number: int) -> list[tuple[str, str]]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/timeline")
        entries = [one for one in found if one["type"] == "label" and one["label"]["name"] in OTHERS]
        return [("labeled" if one["body"] else "unlabeled", one["label"]["name"]) for one in entries]

    def pulls(self) -> list[Any]:
        return list(self.alice.call("GET", f"/repos/{self.repository}/pulls", state="all"))

    def assert_tasks(self, number: int) -> None:
        """Check how many tasks labels made. A broker takes all events, and its consumers drop the others."""
        if self.tasks is not None:
            triggers = [AgentTask.of(body).spec.trigger for body in self.tasks.list(KIND)[0]]
            assert [trigger.by_label for trigger in triggers].count(True) == number, str(self)

    def __str__(self) -> str:
        return "\n---\n".join(program.text()[-5000:] for program in self.programs)


@contextmanager
def running(
    gitea: Any,
    sample: Any,
    scripts: Sequence[Script],
    folder: Path,
    gate: Path,
    *,
    modes: Sequence[str] = ("webhook",),
    **sections: Any,
) -> Iterator[World]:
    """Run a system with rounds, whose only poll comes before anything is labeled.

    Args:
        folder: of the configuration and the logs.
        gate: the file for which the scripts wait, where a command in the workspace can see it.
        modes: of the programs; the first receives webhooks, and works if it is the only one.
        sections: the configuration's other sections.
    """
    with ModelServer(scripts, api_key=MODEL_KEY) as model:
        owner = sample.repository.split("/")[0]
        config: dict[str, Any] = {
            "task_source": "gitea",
            "gitea": {"api_url": sample.url, "account": sample.bot.login, "owner": owner},
            "webhook": {"server": {"host": "127.0.0.1", "port": 0}, "gitea": {"secret": SECRET}},
            "llm": {"openai": {"base_url": model.base_url, "model": "scripted"}, "max_retries": 1},
            "context_storage": {"base_dir": str(folder / "contexts")},
            "consumer": {"workspace": {"isolation": "none"}},
            "development": {"cancel_check_interval": 0.2},
            "rounds": {"enabled": True, "interval": 2, "checks_quiet": 0, "review_quiet": 0},
            "scheduling": {"interval": 3600},
        } | sections
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "GITEA_PERSONAL_ACCESS_TOKEN": sample.bot.token,
            "OPENAI_API_KEY": MODEL_KEY,
        }
        programs = []
        for number, mode in enumerate(modes):
            log = folder / f"main-{number}.log"
            arguments = ["--config", str(folder / "config.yaml"), "--mode", mode]
            programs.append(Program(start_main(arguments, cwd=folder, log=log, env=environment), log))
        if len(modes) == 1:
            polled = f"Polled {host_of(sample.url)}"
            until(programs[0].text, lambda: polled in programs[0].text())
        with gitea.api() as admin, gitea.api(sample.maintainer) as alice:
            admin.add_collaborator(sample.repository, sample.bot.login, "admin")
            url = f"http://127.0.0.1:{programs[0].port()}/webhook/gitea"
            admin.add_hook(sample.repository, url, SECRET)
            tasks = ObjectFile(folder / "contexts" / "tasks.sqlite") if len(modes) == 1 else None
            yield World(programs, model, alice, sample.repository, sample.bot.login, gate, tasks)
            if tasks is not None:
                tasks.close()
        for program in programs:
            assert program.terminate() == 0, program.text()
            assert sample.bot.token not in program.text()
