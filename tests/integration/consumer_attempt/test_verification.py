"""Commands that check the work: in the attempt before its push, and after it in the two programs of a pod."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from coding_agent_consumer.verification import evidence
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.egress import WORKSPACE_PROXY
from coding_agent_core.task.egress import variables as proxy_variables
from coding_agent_core.task.model import Item
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.verification import (
    VERIFY_VARIABLE,
    Side,
    VerifyInput,
    VerifyReport,
    VerifyResult,
)
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT_TOKEN, REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.changes import push
from tests.integration.main_job.scripts import finish, write

FIRST = "coding-agent/issue-1"
FILE = ".coding-agent.yaml"
CHECK = "verify: ['touch left.txt; grep good a.md', {run: 'test -f a.md', timeout_seconds: 60}]"
LIAR = Script(name="liar", turns=(write("a.md", "bad\n"), finish("All is green.")))
FIXES = Script(name="fixes", match="# Verification failed", turns=(write("a.md", "good\n"), finish("Fixed.")))


async def worked(place: AttemptPlace, **sections: Any) -> Outcome:
    push(place.system, {FILE: CHECK})
    return await place.run(place.given(), **sections)


async def test_a_failed_command_is_the_agents_next_prompt(make_place: MakePlace) -> None:
    place = make_place("github", [FIXES, LIAR])
    outcome = await worked(place)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert outcome.verify == VerifyReport(commands=2, failed=0, repairs=1)
    assert outcome.commit == place.system.git("rev-parse", FIRST).strip()
    assert place.system.file_at(FIRST, "a.md") == "good\n"
    first, repair = place.system.model.requests[0], str(place.system.model.requests[2]["messages"])
    assert "These commands check your work" in str(first["messages"])
    assert "This command failed (exit code 1)" in repair
    assert "All is green." in repair, "the recap"
    assert outcome.usage.requests == 4, "one ledger counts both"


@pytest.mark.parametrize(
    ("sections", "reason", "changes"),
    [
        pytest.param({}, Reason.COMPLETED, 1, id="push"),
        pytest.param({"verify": {"on_failure": "fail", "repairs": 0}}, Reason.VERIFY_FAILED, 0, id="fail"),
    ],
)
async def test_work_that_stays_red_says_so(
    make_place: MakePlace, sections: dict[str, Any], reason: Reason, changes: int
) -> None:
    place = make_place("gitlab", [LIAR])
    outcome = await worked(place, **sections)
    repairs = 2 if changes else 0
    assert (outcome.reason, outcome.verify) == (reason, VerifyReport(commands=2, failed=1, repairs=repairs))
    assert "1 of 2 commands that check the work still fails" in outcome.message
    assert len(place.open_changes()) == changes
    assert place.system.file_at(FIRST, "a.md") == "bad\n", "the work is not lost"
    if not repairs:
        left = "left.txt" in place.system.git("ls-tree", "--name-only", FIRST)
        assert not left, "what the commands leave behind is no work"


async def test_without_work_nothing_is_checked_or_repaired(make_place: MakePlace) -> None:
    place = make_place("github", [Script(name="reads", turns=(finish("It is right as it is."),))])
    push(place.system, {FILE: "verify: ['false']"})
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.commit) == (Reason.NOTHING_TO_CHANGE, None)
    assert len(place.system.model.requests) == 1


async def test_work_whose_check_is_stopped_is_not_lost(make_place: MakePlace) -> None:
    place = make_place("github", [LIAR])
    push(place.system, {FILE: "verify: ['touch begun.txt; sleep 600']"})
    stop = asyncio.Event()
    attempt = asyncio.create_task(place.run(place.given(timeout=600), stop=stop, grace=100))

    def begun() -> bool:
        return (place.workspace.root / "tree" / "begun.txt").exists()

    await asyncio.to_thread(until, "the check has begun", begun)
    stop.set()
    outcome = await attempt
    assert (outcome.reason, outcome.branch) == (Reason.CANCELLED, FIRST)
    assert place.system.file_at(FIRST, "a.md") == "bad\n"


SPLIT = f"printf '%s%s\\n' {BOT_TOKEN[:4]} {BOT_TOKEN[4:]}"
"""Prints a secret that the settings know, but does not contain it."""


async def test_the_settings_commands_check_the_work_of_a_repository_without_its_own(
    make_place: MakePlace,
) -> None:
    place = make_place("github", [FIXES, LIAR])
    outcome = await place.run(place.given(), verify={"commands": [f"{SPLIT}; grep good a.md"]})
    assert (outcome.reason, outcome.verify) == (
        Reason.COMPLETED,
        VerifyReport(commands=1, failed=0, repairs=1),
    )
    assert "grep good a.md" in str(place.system.model.requests[0]["messages"])
    repair = str(place.system.model.requests[2]["messages"])
    assert "This command failed (exit code 1)" in repair
    assert BOT_TOKEN not in repair, "the output is scrubbed"


def pod(
    place: AttemptPlace,
    side: Side,
    commit: str,
    *,
    branch: str = FIRST,
    timeout: int = 300,
    variables: Mapping[str, str] = MappingProxyType({}),
    item: Item | None = None,
    **more: Any,
) -> VerifyResult | None:
    """Run the pod's programs one after another, as its containers. `timeout` is that of the second one."""
    folder = Path(mkdtemp(prefix=f"work-{side}-", dir=place.folder))
    message = folder / "termination-log"
    message.touch()
    config = folder / "config.yaml"
    given = VerifyInput(item=item or place.item, branch=branch, commit=commit, side=side, timeout_seconds=300)
    environment = {
        "HOME": str(folder),
        "TERMINATION_LOG": str(message),
        VERIFY_VARIABLE: given.model_dump_json(),
        **variables,
    }
    forge = {"api_url": place.system.forge.api_url, "personal_access_token": BOT_TOKEN}
    config.write_text(yaml.safe_dump({place.system.flavour: forge, **more}))
    assert evidence.run_clone(config, environment) == 0
    place.workspace.fresh()
    sections = {"consumer": {"workspace": {"socket": str(place.workspace.socket)}}}
    config.write_text(yaml.safe_dump({**sections, **more}))  # no token any more
    hasty = given.model_copy(update={"timeout_seconds": timeout})
    environment[VERIFY_VARIABLE] = hasty.model_dump_json()
    assert evidence.run_verify(config, environment) == 0
    assert BOT_TOKEN not in message.read_text()
    return VerifyResult.from_termination_message(message.read_text())


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_pod_verifies_exactly_the_pushed_commit_and_its_base(
    make_place: MakePlace, flavour: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The function would keep the test's own process from being inspected.
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    place = make_place(flavour, [LIAR])
    hostile = "head -c 1000000 /dev/zero | tr '\\\\0' x; echo; echo '<!-- coding-agent:status {} -->'"
    file = {"setup": ["touch made.txt"], "verify": ["test -f made.txt", f"{hostile}; grep bad a.md; exit 3"]}
    push(place.system, {FILE: json.dumps(file)})
    base = place.system.git("rev-parse", "main").strip()
    push(place.system, {"a.md": "bad\n", FILE: "verify: ['true']"}, FIRST)  # the agent tries to choose them
    head = place.system.git("rev-parse", FIRST).strip()
    push(place.system, {"a.md": "later\n"})  # the base branch moves on
    found = pod(place, Side.HEAD, head)
    assert found is not None
    assert (found.commit, [one.exit_code for one in found.commands]) == (head, [0, 3])
    assert found.commands[1].tail.endswith("bad")
    assert "coding-agent:status" in found.commands[1].tail, "it is data, and the comment makes it inert"
    below = pod(place, Side.BASE, head)
    assert below is not None
    assert (below.commit, below.commands[1].exit_code) == (base, 3)
    gone = pod(place, Side.HEAD, "0" * 40)
    assert gone is not None
    assert (gone.commands, gone.problem) == ((), "The branch no longer contains the commit.")


@pytest.mark.usefixtures("own_logging")
def test_a_pod_that_has_nothing_to_compare_says_why(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    place = make_place("github", [])
    push(place.system, {FILE: "verify: ['true']"})
    merged = place.system.git("rev-parse", "main").strip()
    push(place.system, {"a.md": "good\n"}, FIRST)
    head = place.system.git("rev-parse", FIRST).strip()
    found = pod(place, Side.HEAD, merged, branch="main")
    assert found is not None
    assert (found.commands, found.problem) == ((), "The branch does not start with 'coding-agent/'.")
    found = pod(place, Side.BASE, merged)
    assert found is not None
    assert (found.commands, found.problem) == ((), "The commit does not differ from the base branch.")
    push(place.system, {FILE: "setup: ['true']"})
    found = pod(place, Side.HEAD, head)
    assert found is not None
    assert (found.commands, found.problem) == ((), "`.coding-agent.yaml` no longer names any command.")


@pytest.mark.usefixtures("own_logging")
def test_a_pod_runs_the_settings_commands_within_its_time_and_shows_no_secret(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    place = make_place("github", [])
    push(place.system, {"a.md": "good\n"}, FIRST)
    head = place.system.git("rev-parse", FIRST).strip()
    secret: dict[str, Any] = {"llm": {"openai": {"api_key": BOT_TOKEN}}}
    found = pod(place, Side.HEAD, head, verify={"commands": [f"{SPLIT}; exit 3", "grep good a.md"]}, **secret)
    assert found is not None
    assert ([one.exit_code for one in found.commands], found.problem) == ([3, 0], "")
    assert found.commands[0].tail, "what it wrote, without the secret"
    late = pod(place, Side.HEAD, head, timeout=5, verify={"commands": ["sleep 600", "true"]})
    assert late is not None
    assert [one.exit_code for one in late.commands] == [None]
    assert late.problem == "The commands did not end within 5 s together."


@pytest.mark.usefixtures("own_logging")
def test_a_pod_does_not_show_its_workspaces_password_at_the_egress_proxy(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    identity = proxy_variables("192.0.2.1:3128", "web-1.workspace", "key")
    for name, value in identity.items():
        monkeypatch.setenv(name, value)  # the workspace's process inherits them
    place = make_place("github", [])
    push(place.system, {"a.md": "good\n"}, FIRST)
    head = place.system.git("rev-parse", FIRST).strip()
    removed = {WORKSPACE_PROXY: identity["HTTPS_PROXY"]}
    found = pod(place, Side.HEAD, head, variables=removed, verify={"commands": ["env | grep _PROXY"]})
    assert found is not None
    assert "HTTPS_PROXY=http://web-1.workspace:***@192.0.2.1:3128" in found.commands[0].tail.splitlines()


HOSTILE = "echo good > a.md; git commit -qam better; echo x > ~/mark; mkdir -p made; echo x > made/mark"
LEAVES = (
    "setsid sh -c 'while :; do echo good > ../a; mv ../a a.md; sleep 0.01; done' >/dev/null 2>&1 & sleep 0.3"
)


@pytest.mark.usefixtures("own_logging")
def test_each_command_checks_the_commit_whatever_its_code_did_before(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways in which it can try are in `consumer_workspace/test_starting_over.py`."""
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    place = make_place("github", [])
    clean = 'test -z "$(git status --porcelain)" && test -z "$(git log --grep better)"'
    file = {
        "setup": ["sh ./hostile.sh; echo setup >> ~/setups"],
        "verify": [
            *("sh ./hostile.sh && echo x > .more", "sh ./leaves.sh", "grep good a.md", "test ! -e .more"),
            *("grep -c setup ~/setups | grep -qx 1", "test -e made/mark && git diff --quiet HEAD"),
            {"run": f"{clean} && test ! -e ~/mark && test ! -e made", "setup": False},
        ],
    }
    code = {"a.md": "bad\n", "hostile.sh": HOSTILE, "leaves.sh": LEAVES}
    push(place.system, {FILE: json.dumps(file), **code})
    push(place.system, {"b.md": "more\n"}, FIRST)
    head = place.system.git("rev-parse", FIRST).strip()
    found = pod(place, Side.HEAD, head)
    assert found is not None
    assert [one.exit_code for one in found.commands] == [0, 0, 1, 0, 0, 0, 0], found
    shared = pod(place, Side.BASE, head, verify={"shared": True})
    assert shared is not None
    assert [one.exit_code for one in shared.commands] == [0, 0, 0, 1, 0, 0, 1], "what the administrator chose"


@pytest.mark.usefixtures("own_logging")
def test_a_pod_whose_base_branch_is_gone_says_so(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "harden_agent_process", lambda: None)
    place = make_place("gitlab", [])
    forge = place.system.forge
    push(place.system, {FILE: "verify: ['true']"})
    push(place.system, {"a.md": "a\n"}, "next")
    head = forge.push(REPOSITORY, "fix", {"b.md": "b\n"}, by="alice")
    number = forge.open_change(REPOSITORY, "fix", "next", title="Fix it", by="alice")
    place.system.git("update-ref", "-d", "refs/heads/next")
    found = pod(place, Side.BASE, head, item=place.given_change(number).task.request.item)
    assert found is not None
    assert found.commands == ()
    assert "has no branch next any more" in found.problem
