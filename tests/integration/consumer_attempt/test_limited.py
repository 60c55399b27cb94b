"""A forge limits the requests of git: it is left alone for the time it asks, and the outcome says so."""

from typing import Any

import pytest
from coding_agent_consumer.agent_interface import Brief, OnStep, Step
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

from tests.integration.consumer_attempt.conftest import MakePlace

GIT = r"/acme/pricing\.git/info/refs"
PUSH = r"/acme/pricing\.git/git-receive-pack"


class Worker:
    """An agent that writes two files, with a checkpoint after each."""

    async def work(self, brief: Brief, workspace: Workspace, *, on_step: OnStep, **_: object) -> Outcome:
        for number in (1, 2):
            await workspace.write_file(f"{number}.md", "x\n")
            await on_step(Step(number, "tool", "worked"))
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Say it better.")


@pytest.mark.parametrize(
    ("limit", "asked", "words"),
    [
        ({"status": 429, "retry_after": 900}, 900, "(429). It asks for a wait of 900 s"),
        ({"status": 429, "headers": {"Retry-After": "garbage"}}, 60, "(429). It is left alone for 60 s"),
        ({"status": 403, "retry_after": 900}, 900, "(403). It asks for a wait of 900 s"),
    ],
    ids=["Retry-After", "no time", "403"],
)
async def test_a_limited_push_is_not_repeated_within_the_wait(
    make_place: MakePlace, limit: dict[str, Any], asked: float, words: str
) -> None:
    place = make_place("github", [])
    pushes = place.system.forge.fault(path=PUSH, times=None, **limit)
    requests = place.system.forge.fault(path=GIT, times=None)  # it only counts
    outcome = await place.run(
        place.given(timeout=30), make_agent=lambda *_: Worker(), consumer={"checkpoint_interval": 1e-9}
    )
    assert outcome.reason is Reason.FORGE_UNAVAILABLE, outcome.message
    assert outcome.retry_after is not None
    assert asked - 60 < outcome.retry_after <= asked
    assert words in outcome.message
    assert pushes.hits == 1
    assert requests.hits == 3, "before the clone, for it, and before the push"


async def test_a_limited_clone_leaves_the_time_to_the_next_attempt(make_place: MakePlace) -> None:
    place = make_place("gitlab", [])
    requests = place.system.forge.fault(path=GIT, times=None, status=503, retry_after=900)
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.retry_after) == (Reason.FORGE_DOWN, 900)
    assert "(503). It asks for a wait of 900 s" in outcome.message
    assert requests.hits == 1
