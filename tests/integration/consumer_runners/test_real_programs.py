"""The real programs, from their registry, do an attempt's work in the real workspace through the gateway."""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_consumer.gateway.forwarding import GatewayApp
from coding_agent_consumer.modes import make_agent
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance
from coding_agent_core.task.verification import VerifyReport
from coding_agent_demo.programs import program_folder
from coding_agent_testbed.model.script import Call, Failure, Script, Turn

from tests.fixtures.system import MODEL_KEY
from tests.integration.consumer_attempt.conftest import make_place
from tests.integration.consumer_attempt.place import AttemptPlace

__all__ = ["make_place"]
ATTEMPT_SECONDS = 400
"""More than any of them takes on a busy machine; the attempt ends before the test is ended."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(ATTEMPT_SECONDS + 100)]
BRANCH = "coding-agent/issue-1"
WORDS = "I made the file, and it is there."
LARGE = "x" * 200_000
"""More than fits into an argument or a variable."""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""One pixel as PNG; Claude Code decodes what it reads."""

MUCH = 1_000_000
"""Tokens: many times what the requests of these programs could use by their size."""

PROGRAMS = 60
"""That work at the same time."""

MakePlace = Callable[..., AttemptPlace]


def runs(command: str, **more: Any) -> Turn:
    return Turn(calls=(Call(run=command),), **more)


@pytest.fixture(params=["claude-code", "codex", "opencode", "gemini"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A runner whose program is in the workspace."""
    name: str = request.param
    monkeypatch.setenv("PATH", f"{program_folder(name)}:{os.environ['PATH']}")
    return name


class Place:
    """Runs attempts with a runner."""

    def __init__(self, place: AttemptPlace, runner: str, provider: str = "") -> None:
        self.place, self.runner = place, runner
        vendors = {"claude-code": "anthropic", "gemini": "google"}
        self.provider = provider or vendors.get(runner, "openai")

    async def run(self, **given: Any) -> Outcome:
        sections, service = given.pop("sections", {}), given.pop("service", {})
        allowance, consumer = given.pop("allowance", None), given.pop("consumer", {})
        model, provider = self.place.system.model, self.provider
        url = model.base_url if provider == "openai" else model.url
        service = {"base_url": url, "api_key": MODEL_KEY, "model": "scripted", **service}
        return await self.place.run(
            self.place.given(**given).model_copy(
                update={"allowance": allowance, "timeout_seconds": ATTEMPT_SECONDS}
            ),
            grace=100,
            make_agent=make_agent,
            consumer={"runner": self.runner, "checkpoint_interval": 1e-9, **consumer},
            llm={"provider": provider, provider: service},
            **sections,
        )


@pytest.fixture
def place(make_place: MakePlace, runner: str) -> Callable[..., Place]:
    def start(*turns: Turn, loop: bool = False) -> Place:
        return Place(make_place("github", [Script(turns=turns, loop=loop)]), runner)

    return start


async def test_it_repairs_what_a_command_finds_in_the_same_conversation(
    place: Callable[..., Place],
) -> None:
    turns = (runs("echo bad > made.md"), Turn(text=WORDS), runs("echo good > made.md"), Turn(text="Fixed."))
    # A new conversation would begin with the first turn again.
    here = place(*turns)
    outcome = await here.run(sections={"verify": {"commands": ["grep good made.md"], "repairs": 1}})
    assert outcome.reason is Reason.COMPLETED, outcome
    assert outcome.verify == VerifyReport(commands=1, failed=0, repairs=1), outcome
    assert here.place.system.file_at(BRANCH, "made.md") == "good\n"
    assert "Fixed." in outcome.summary


async def test_it_makes_the_change_with_a_busy_model_and_the_gateway_counts(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    busy = Turn(error=Failure(status=429, times=1))
    here = place(busy, runs("echo made > made.md; cat made.md"), Turn(text=WORDS))
    outcome = await here.run()
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    assert here.place.system.file_at(BRANCH, "made.md") == "made\n"
    [change] = here.place.open_changes()
    assert WORDS in change.body
    assert WORDS in outcome.tail
    warned = [record.getMessage() for record in caplog.records if " warns: " in record.getMessage()]
    # Codex does not know the scripted model. Any other warning is about a setting of ours.
    assert [text for text in warned if "Model metadata" not in text] == []
    counted = here.place.system.model.usage["scripted"]
    assert outcome.usage.requests == counted["answers"] >= 2
    assert outcome.usage.output_tokens == counted["output_tokens"] > 0


@pytest.mark.parametrize("runner", ["claude-code"], indirect=True)
async def test_its_helpers_ask_the_configured_model(make_place: MakePlace, runner: str) -> None:
    """The gateway answers 403 to every other."""
    asked = {"description": "Look", "prompt": "LOOK AROUND", "subagent_type": "general-purpose"}
    helpers = [
        Call(tool="Agent", arguments={**asked, "model": size, "run_in_background": False})
        for size in ("haiku", "sonnet", "opus")
    ]
    main = Script(
        turns=(*(Turn(calls=(one,)) for one in helpers), runs("echo made > made.md"), Turn(text=WORDS))
    )
    place = make_place("github", [Script(match="LOOK AROUND", turns=(Turn(text="I looked."),)), main])
    outcome = await Place(place, runner).run()
    assert outcome.reason is Reason.COMPLETED, outcome
    assert place.system.model.usage["scripted"]["answers"] == outcome.usage.requests == 8
    assert list(place.system.model.usage) == ["scripted"]


@pytest.mark.parametrize("runner", ["claude-code"], indirect=True)
@pytest.mark.parametrize("model", ["scripted", "claude-sonnet-5-5"])  # it knows one of them by name
async def test_it_compacts_before_the_models_context_is_full(
    make_place: MakePlace, runner: str, model: str
) -> None:
    full, made = runs("echo begun", prompt_tokens=118_000), runs("echo made > made.md")
    scripts = [
        Script(latest="<summary>", turns=(Turn(text="<summary>SO FAR SO GOOD</summary>"),), loop=True),
        # It keeps the last answers, so this script does not begin with its first turn.
        Script(match="SO FAR SO GOOD", turns=(made, made, made, Turn(text=WORDS))),
        Script(turns=(full, full, Turn(error=Failure(status=400, times=0)))),
    ]
    place = make_place("github", scripts)
    service = {"model": model, "context_length": 128_000, "max_token": 8_000}
    outcome = await Place(place, runner).run(service=service)
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    assert {request["max_tokens"] for request in place.system.model.requests} == {8_000}


async def test_it_is_given_long_instructions_and_the_images_of_the_issue(
    place: Callable[..., Place], runner: str
) -> None:
    looks = Turn(calls=(Call(tool="Read", arguments={"file_path": "~/.coding-agent/images/1.png"}),))
    here = place(looks if runner == "claude-code" else runs("true"), Turn(text=WORDS))
    forge = here.place.system.forge
    forge.sandbox.attachments["id-1"] = PICTURE
    issue = here.place.system.item(1)
    issue.body += f"\n\n![the list]({forge.base_url}/user-attachments/assets/id-1)"
    outcome = await here.run(sections={"instructions": f"{LARGE}END-OF-RULES"})
    assert outcome.reason is Reason.NOTHING_TO_CHANGE, outcome
    asked = [str(request) for request in here.place.system.model.requests]
    assert any("END-OF-RULES" in text for text in asked)
    assert base64.b64encode(PICTURE).decode() in asked[-1]


@pytest.mark.parametrize("runner", ["claude-code", "codex"], indirect=True)  # the others retry for minutes
async def test_a_failing_model_is_not_asked_without_end(place: Callable[..., Place]) -> None:
    here = place(Turn(error=Failure(status=500, times=0)))
    outcome = await here.run()
    assert outcome.reason is Reason.MODEL_UNAVAILABLE, outcome
    assert len(here.place.system.model.requests) <= 6


@pytest.mark.parametrize("runner", ["claude-code"], indirect=True)
async def test_60_requests_with_pictures_exceed_the_allowance_by_one_answer_at_most(
    make_place: MakePlace, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say before how many tokens a picture is. The other requests have a known size."""
    asked = {"description": "Look", "prompt": "LOOK AT IT", "subagent_type": "general-purpose"}
    helper = Call(tool="Agent", arguments={**asked, "run_in_background": False})
    looks = Turn(calls=(Call(tool="Read", arguments={"file_path": "picture.png"}),), prompt_tokens=1)
    # However quick they are, none looks before all have begun.
    meets = "mktemp $TMPDIR/begun.XXXXXX; until [ $(ls $TMPDIR/begun.* | wc -l) = 60 ]; do sleep 0.2; done"
    looked = Turn(text="I looked.", prompt_tokens=MUCH)
    scripts = [
        Script(name="helper", match="LOOK AT IT", turns=(runs(meets, prompt_tokens=1), looks, looked)),
        Script(turns=(Turn(calls=(helper,) * 20, prompt_tokens=1), Turn(text=WORDS, prompt_tokens=1))),
    ]
    place = make_place("github", scripts)
    start = "IS_SANDBOX=1 claude -p --model scripted --permission-mode bypassPermissions"
    picture = f"echo {base64.b64encode(PICTURE).decode()} | base64 -d > picture.png"
    # One process runs 20 helpers at a time.
    monkeypatch.setenv("CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", "20")
    await exceeds_by_one_answer(
        Place(place, "command", "anthropic"), f"{picture}; for n in 1 2 3; do {start} <<< Work. & done"
    )
    helpers = [one for one in place.system.model.requests if one["script"] == "helper"]
    assert len([one for one in helpers if one["position"] == 0]) == 60, "they were at work together"


@pytest.mark.parametrize("runner", ["codex"], indirect=True)
async def test_60_programs_that_set_no_limit_exceed_the_allowance_by_one_answer_at_most(
    make_place: MakePlace, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program never says how long an answer may be."""
    asked, all_have_asked, reserved = 0, asyncio.Event(), GatewayApp._reserved

    async def with_the_others(app: GatewayApp, *request: Any) -> int:
        """However quick or slow the machine is, the first answer begins when all programs wait for one."""
        nonlocal asked
        asked += 1
        if asked == PROGRAMS:
            all_have_asked.set()
        number = await reserved(app, *request)
        await all_have_asked.wait()
        return number

    monkeypatch.setattr(GatewayApp, "_reserved", with_the_others)
    provider = '{name="g", base_url="\'$OPENAI_BASE_URL\'", env_key="OPENAI_API_KEY", wire_api="responses"}'
    start = (
        "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox"
        f" -m scripted -c web_search=disabled -c model_provider=g -c 'model_providers.g={provider}' -"
    )
    place = make_place("github", [Script(turns=(runs("true", prompt_tokens=MUCH),), loop=True)])
    await exceeds_by_one_answer(
        Place(place, "command"),
        f"for n in {{1..{PROGRAMS}}}; do mkdir $TMPDIR/$n && CODEX_HOME=$TMPDIR/$n {start} <<< Work. & done",
    )


async def exceeds_by_one_answer(here: Place, work: str) -> None:
    """Run it with an allowance for somewhat more than two of the answers with `MUCH`."""
    allowance = 2 * MUCH + MUCH // 2
    command = ["bash", "-c", f"{work}; wait; false"]
    outcome = await here.run(allowance=Allowance(tokens=allowance), consumer={"command": command})
    assert outcome.reason is Reason.BUDGET_EXCEEDED, outcome
    used = here.place.system.model.usage["scripted"]
    assert allowance < used["input_tokens"] + used["output_tokens"] < allowance + MUCH
    counted = outcome.usage.input_tokens + outcome.usage.output_tokens
    assert counted == used["input_tokens"] + used["output_tokens"]
