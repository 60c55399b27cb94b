"""`main.py --mode attempt`: what it needs, and how it ends, by exit code and termination message."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_consumer import modes as attempt_program
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, over
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, run, script, write

FIRST = "coding-agent/issue-1"


def test_sigterm_ends_it_with_143_and_the_work_so_far_pushed(make_place: MakePlace, tmp_path: Path) -> None:
    place = make_place("github", script(write("begun.md", "begun\n"), run("sleep 600"), finish()))
    place.workspace.fresh()
    last_words = tmp_path / "termination-log"
    last_words.touch()
    # The other forge's token is not there, as in a pod that was given its own forge's alone.
    place.system.sections["gitlab"] = {"personal_access_token": {"files": [str(tmp_path / "not-mounted")]}}
    program = place.system.start(
        *("--mode", "attempt"),
        CODING_AGENT_TASK=place.given().to_json(),
        WORKSPACE_SOCKET=str(place.workspace.socket),
        TERMINATION_LOG=str(last_words),
        GITLAB_PERSONAL_ACCESS_TOKEN="",
    )
    until(f"it works; {program.log}", lambda: len(place.system.model.requests) >= 2)
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(60) == 143, program.text()
    outcome = Outcome.from_termination_message(last_words.read_text())
    assert outcome is not None
    assert (outcome.reason, outcome.branch) == (Reason.CANCELLED, FIRST)
    assert place.system.file_at(FIRST, "begun.md") == "begun\n"
    for secret in (BOT_TOKEN, MODEL_KEY):
        assert secret not in program.text() + last_words.read_text()


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("environment", "changes", "sentence"),
    [
        ({"CODING_AGENT_TASK": ""}, {}, "CODING_AGENT_TASK is not set"),
        ({}, {"githup": {}}, "unknown setting; did you mean `github`?"),
        ({}, {"github": {"api_url": "https://ghe.example.com/api/v3"}}, "which is not configured"),
        (
            {},
            {"github": {"personal_access_token": {"files": ["/nowhere/token"]}}},
            "GITHUB_PERSONAL_ACCESS_TOKEN",
        ),
    ],
)
def test_what_is_wrong_with_input_or_configuration_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    changes: dict[str, Any],
    sentence: str,
) -> None:
    # It would keep this very process from being inspected.
    monkeypatch.setattr(attempt_program, "harden_agent_process", lambda: None)
    last_words = tmp_path / "termination-log"
    last_words.touch()
    config = tmp_path / "config.yaml"
    whole = {
        "github": {"personal_access_token": BOT_TOKEN},
        "llm": {"openai": {"base_url": "http://127.0.0.1:9/v1", "api_key": MODEL_KEY, "model": "m"}},
    }
    config.write_text(yaml.safe_dump(over(whole, changes)))
    code = attempt_program.run_attempt(
        config, {"CODING_AGENT_TASK": json.dumps(TASK), "TERMINATION_LOG": str(last_words), **environment}
    )
    outcome = Outcome.from_termination_message(last_words.read_text())
    assert outcome is not None
    assert (code, outcome.reason) == (78, Reason.CONFIGURATION)
    assert sentence in outcome.message
    assert MODEL_KEY not in outcome.message


TASK = {"type": "github_issue", "owner": "acme", "repo": "pricing", "number": 1, "uuid": "u", "user": "alice"}
