"""What somebody arranges so that the agent pushes where nobody asked: to a branch of the base repository.

The agent's account may push everywhere here, so nothing but the agent itself keeps it from that.
"""

from typing import Any

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.forge.model import Kind, Role
from coding_agent_testbed.model.script import Script

from tests.fixtures.forge import commit
from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, script, write
from tests.security.arranged_changes import ARRANGED, BOT, MALLORY, forked, own, refs

each_forge = pytest.mark.parametrize("flavour", ["github", "gitlab"])


def works() -> list[Script]:
    return script(write("work.md", "The agent was here.\n"), finish())


@each_forge
async def test_nothing_is_pushed_to_the_base_repository(make_place: MakePlace, flavour: str) -> None:
    place = make_place(flavour, works())
    base = place.system.forge.repository(REPOSITORY)
    base.roles[BOT] = Role.ADMIN  # the forge itself would accept a push to a protected branch
    for arrange, reason in ARRANGED:
        number = arrange(place.system)
        before = refs(base)
        outcome = await place.run(place.given_change(number))
        assert refs(base) == before
        assert outcome.reason is reason, outcome.message
        assert place.system.item(number, Kind.CHANGE).open
    assert place.system.model.requests == [], "they end before anything is spent"


@each_forge
async def test_a_change_in_a_fork_pushes_nothing_to_where_it_was_forked_from(
    make_place: MakePlace, flavour: str
) -> None:
    """Mallory asks for her own repository to be updated from ours, and labels that change."""
    place = make_place(flavour, works())
    base = place.system.forge.repository(REPOSITORY)
    fork = place.system.forge.fork(REPOSITORY, "mallory", roles={BOT: Role.WRITE})
    commit(base.path, "feature")
    number = place.system.forge.open_change(MALLORY, "feature", "main", source=base)
    before = refs(base)
    project = {"project_id": fork.id} if flavour == "gitlab" else {}
    outcome = await place.run(place.given_change(number, repository=fork.full_name, **project))
    assert refs(base) == before
    assert outcome.reason is Reason.PUSH_NOT_ALLOWED, outcome.message


async def test_a_branch_that_is_protected_meanwhile_is_not_pushed_to(make_place: MakePlace) -> None:
    place = make_place("gitlab", works())
    base = place.system.forge.repository(REPOSITORY)
    base.roles[BOT] = Role.ADMIN
    number = own(place.system, "feature")
    before = refs(base)

    class Protecting(ModelAgent):
        async def work(self, *arguments: Any, **rest: Any) -> Outcome:
            place.system.forge.protect(REPOSITORY, "feature")
            return await super().work(*arguments, **rest)

    outcome = await place.run(place.given_change(number), make_agent=Protecting)
    assert refs(base) == before
    assert outcome.reason is Reason.PUSH_NOT_ALLOWED, outcome.message


@each_forge
async def test_a_change_that_nobody_arranged_is_worked_on_where_it_is(
    make_place: MakePlace, flavour: str
) -> None:
    """The decoy: the same attempt does push, to the fork."""
    place = make_place(flavour, works())
    number, fork = forked(place.system, "feature")
    before = refs(place.system.forge.repository(REPOSITORY)), refs(fork)
    outcome = await place.run(place.given_change(number))
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert refs(place.system.forge.repository(REPOSITORY)) == before[0]
    assert refs(fork) != before[1]
