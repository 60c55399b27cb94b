"""A real model behind a relay, and attempts that ask it through the gateway."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_consumer.modes import make_agent
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.usage import Allowance
from coding_agent_demo.programs import program_folder
from coding_agent_testbed.local_model.__main__ import NAME
from coding_agent_testbed.until import until

from tests.fixtures.system import MODEL_KEY
from tests.integration.consumer_attempt.conftest import make_place
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.sweep.local_model.relay import Relay

__all__ = ["make_place"]
TRIVIAL = ("Create hello.txt", "Create the file `hello.txt` with the text `hello`.")
"""Title and text of an issue that even this model can do."""
PRICE = {"input": "10", "output": "40", "currency": "EUR"}
"""For a million tokens."""
_LISTENING = re.compile(r"^Listening on (\S+)$", re.MULTILINE)
_VENDORS = {"claude-code": "anthropic"}


@dataclass
class LocalModel:
    """A process with the model."""

    process: subprocess.Popen[bytes]
    url: str

    def pause(self) -> None:
        """Let it say nothing: its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def serve_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LocalModel]]:
    """A function that serves the model: `serve_model("--context", "512")`, with a process for each choice."""
    served: dict[tuple[str, ...], LocalModel] = {}
    with ExitStack() as stack:

        def serve(*options: str) -> LocalModel:
            if options not in served:
                served[options] = _serve(options, tmp_path_factory.mktemp("model") / "log")
                stack.callback(served[options].process.wait, 60)
                stack.callback(served[options].process.kill)
            return served[options]

        yield serve


def _serve(options: tuple[str, ...], log: Path) -> LocalModel:
    command = [sys.executable, "-m", "coding_agent_testbed.local_model", "--port", "0", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "MODEL_API_KEY": MODEL_KEY}
        )

    def listening() -> re.Match[str] | None:
        text = log.read_text(errors="replace")
        assert process.poll() is None, text[-2000:]
        return _LISTENING.search(text)

    url = until("the model listens", listening)[1]
    until("the model is loaded", lambda: httpx2.get(f"{url}/health").status_code == 200)
    return LocalModel(process, url)


@dataclass
class Attempts:
    """Runs attempts at the sample's issue with the real model."""

    place: AttemptPlace
    relay: Relay

    def ask(self, title: str, body: str) -> None:
        """Make this the text of the issue."""
        issue = self.place.system.item(1)
        issue.title, issue.body = title, body

    async def run(
        self,
        runner: str = "builtin",
        *,
        allowance: Allowance | None = None,
        timeout: int = 150,
        llm: dict[str, Any] | None = None,
        sections: dict[str, Any] | None = None,
        **service: Any,
    ) -> Outcome:
        """Run one; `service` is laid over the section of the model's service."""
        provider = _VENDORS.get(runner, "openai")
        given = self.place.given().model_copy(update={"allowance": allowance, "timeout_seconds": timeout})
        url = self.relay.url + ("/v1" if provider == "openai" else "")
        api = {"api": "responses"} if runner == "codex" else {}
        model = {"base_url": url, "api_key": MODEL_KEY, "model": NAME, "max_token": 100, **api, **service}
        return await self.place.run(
            given,
            make_agent=make_agent,
            consumer={"runner": runner},
            llm={
                "provider": provider,
                provider: {"context_length": 4096, **model},
                "prices": {NAME: PRICE},
                "stream": True,
                **(llm or {}),
            },
            **(sections or {}),
        )

    def check_counted(self, outcome: Outcome) -> None:
        """The attempt's usage is the sum of what the model said, at the price of the settings."""
        used = [one.used for one in self.relay.answered]
        counted = outcome.usage
        sent, written = sum(one.input for one in used), sum(one.output for one in used)
        assert (counted.requests, counted.input_tokens, counted.output_tokens) == (len(used), sent, written)
        assert counted.cost is not None
        cost = Decimal(counted.cost.amount)
        assert cost == (Decimal(sent) * 10 + Decimal(written) * 40) / 1_000_000
        assert (counted.cost.currency, counted.model) == ("EUR", NAME)


@pytest.fixture
def attempts(
    make_place: Callable[..., AttemptPlace],
    serve_model: Callable[..., LocalModel],
) -> Iterator[Callable[..., Attempts]]:
    """A function that makes attempts with the model, whose options are given."""
    with ExitStack() as stack:

        def make(*options: str) -> Attempts:
            relay = stack.enter_context(Relay(serve_model(*options).url))
            return Attempts(make_place("github", []), relay)

        yield make


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that puts a CLI coding agent on the PATH, and returns its name."""

    def put(name: str) -> str:
        monkeypatch.setenv("PATH", f"{program_folder(name)}:{os.environ['PATH']}")
        return name

    return put
