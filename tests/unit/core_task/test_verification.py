"""What evidence says: never green without proof, bounded, and without effect whatever a log contains."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.task.verification import (
    MAX_DESCRIPTION,
    NOT_CHECKED,
    RED_ON_BASE,
    Evidence,
    EvidenceState,
    SideEvidence,
    VerifiedCommand,
    VerifyResult,
    judged,
    verified,
)

HEAD, BASE = "a" * 40, "b" * 40
GREEN = verified("make lint", 0, 1, "fine")
RED = verified("make test", 2, 60, "collected 3\n1 failed, 2 passed")
SLOW = verified("make e2e", None, 600, "waiting")


def side(*commands: VerifiedCommand, commit: str = HEAD, **fields: Any) -> SideEvidence:
    return SideEvidence(job="j", tries=1, commit=commit, commands=commands, **{"settled": True, **fields})


DONE_BASE = side(GREEN, verified("make test", 0, 1, ""), commit=BASE)


@pytest.mark.parametrize(
    ("head", "base", "state", "said"),
    [
        pytest.param(None, None, "pending", "The commands run on this commit", id="asked for"),
        pytest.param(side(settled=False), None, "pending", "The commands run on this", id="running"),
        pytest.param(side(GREEN), None, "pending", "to compare", id="the base is missing"),
        pytest.param(side(GREEN, GREEN), DONE_BASE, "success", "All 2 commands pass.", id="green"),
        pytest.param(
            side(GREEN, RED),
            DONE_BASE,
            "failure",
            "1 of 2 commands fails: make test (exit code 2): 1 failed, 2 passed",
            id="red",
        ),
        pytest.param(side(SLOW), DONE_BASE, "failure", "make e2e (took too long)", id="a timeout is red"),
        pytest.param(
            side(GREEN, RED),
            side(GREEN, RED, commit=BASE),
            "failure",
            f"{RED_ON_BASE}: 1 of",
            id="red on both",
        ),
        pytest.param(
            side(RED, SLOW), side(RED, commit=BASE), "failure", "2 of 2 commands fail:", id="one is new"
        ),
        pytest.param(
            side(GREEN), side(settled=False), "pending", "to compare", id="the base has another try"
        ),
        pytest.param(
            side(GREEN), side(problem="Evicted."), "success", "The command passes.", id="the base is unknown"
        ),
        pytest.param(
            side(problem="Evicted."), None, "error", f"{NOT_CHECKED}: Evicted.", id="no result of the head"
        ),
        pytest.param(side(), DONE_BASE, "error", "no command ran", id="nothing ran"),
        pytest.param(side(GREEN, problem="Late."), DONE_BASE, "error", "Late.", id="not all commands ran"),
        pytest.param(side(GREEN, commit=BASE), DONE_BASE, "error", "another commit", id="another commit"),
    ],
)
def test_verdicts(head: SideEvidence | None, base: SideEvidence | None, state: str, said: str) -> None:
    found = judged(Evidence(commit=HEAD, started=datetime.now(UTC), head=head, base=base))
    assert found.state == EvidenceState(state)
    assert said in found.description
    assert (RED_ON_BASE in found.description) is (RED_ON_BASE in said)
    assert len(found.description) <= MAX_DESCRIPTION


def test_a_megabyte_of_log_fits_and_keeps_its_end() -> None:
    log = "x" * 999_000 + "\n\x1b[31m" + "ä" * 2_000 + " the end"
    commands = tuple(verified(f"make {n} {'y' * 300}", n % 2, 1, log) for n in range(10))
    text = VerifyResult(commit=HEAD, commands=commands).to_termination_message()
    assert len(text.encode()) <= 4096
    read = VerifyResult.from_termination_message(text)
    assert read is not None
    assert [one.exit_code for one in read.commands] == [n % 2 for n in range(10)]
    one = VerifyResult(commit=HEAD, commands=(verified("a", 1, 1, log),)).to_termination_message()
    assert "the end" in one
    assert "\\u001b" not in one


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "[]",
        "{}",
        json.dumps({"commit": HEAD}),
        json.dumps({"commit": "main", "commands": [{"run": "x", "exitCode": 0, "seconds": 1}]}),
        json.dumps({"commit": HEAD, "commands": [{"run": "x", "exitCode": "0", "seconds": -1}]}),
        json.dumps({"commit": HEAD, "commands": [{"run": "x", "exitCode": 0, "seconds": 1}] * 11}),
    ],
)
def test_other_messages_are_no_result(text: str) -> None:
    assert VerifyResult.from_termination_message(text) is None
