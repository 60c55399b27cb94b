"""The consumer of a queue, whatever happens in whatever order (hypothesis).

People label, unlabel and close; messages come twice; the consumer dies after any request or loses its claim;
attempts fail; the forge refuses. At no moment does a task have two attempts of one number. Once the world
calms down, comment, labels and dead-letter queue agree, and no label waits for a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coding_agent_core.attempts import Outcome
from coding_agent_core.errors import ForgeError, ForgeRefusedError
from coding_agent_core.reasons import Reason
from coding_agent_core.tasks import Phase
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.consumer.simulation import BOT, DONE, MAX_ATTEMPTS, PROCESSING, SimulatedClaim, World

OUTCOMES = [
    Outcome(reason=Reason.COMPLETED, message="Done."),
    Outcome(reason=Reason.TOOL_FAILING, message="A tool failed."),
    Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is not available."),
    Outcome(reason=Reason.NOT_AUTHORIZED, message="A stranger asked."),
    Outcome(reason=Reason.NOT_APPROVED, message="A stranger edited it."),
]
STRANGERS = (Reason.NOT_AUTHORIZED, Reason.NOT_APPROVED)
WRITES = ["upsert_comment", "add_label", "remove_label"]


class Consumer(RuleBasedStateMachine):
    """People, forge, broker and consumer take turns in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()

    @rule()
    def label(self) -> None:
        if self.world.forge.open and BOT not in self.world.forge.labels:
            self.world.label()

    @precondition(lambda self: self.world.broker.waiting)
    @rule()
    def the_message_comes_twice(self) -> None:
        if BOT in self.world.forge.labels:
            self.world.publish()

    @rule()
    def unlabel(self) -> None:
        self.world.forge.unlabel()

    @rule()
    def close(self) -> None:
        self.world.forge.open = False

    @precondition(lambda self: self.world.broker.waiting)
    @rule(outcome=st.sampled_from(OUTCOMES), fatal=st.integers(0, 24))
    def deliver(self, outcome: Outcome, fatal: int) -> None:
        self._deliver(outcome, fatal)

    @precondition(lambda self: self.world.broker.waiting)
    @rule(outcome=st.sampled_from(OUTCOMES), name=st.sampled_from(WRITES))
    def the_forge_refuses(self, outcome: Outcome, name: str) -> None:
        def refused(request: str) -> ForgeError | None:
            return ForgeRefusedError("no", status=403) if request == name else None

        self.world.forge.refused = refused
        self._deliver(outcome, 0)
        self.world.forge.refused = lambda _: None

    @precondition(lambda self: self.world.broker.waiting)
    @rule(fatal=st.integers(0, 24))
    def a_person_acts_during_the_attempt(self, fatal: int) -> None:
        def unlabel(claim: SimulatedClaim) -> None:
            self.unlabel()
            claim.why_cancelled = "The label was removed."
            claim.cancelled.set()

        self._deliver(OUTCOMES[0], fatal, unlabel)

    @precondition(lambda self: self.world.broker.waiting)
    @rule()
    def the_claim_is_lost_during_the_attempt(self) -> None:
        self._deliver(OUTCOMES[0], 0, lambda claim: claim.lost.set())

    def _deliver(
        self, outcome: Outcome, fatal: int, during: Callable[[SimulatedClaim], None] | None = None
    ) -> None:
        self.world.outcomes = [outcome]
        self.world.during = during
        self.runner.run(self.world.deliver(fatal))
        self.world.during = None

    @invariant()
    def attempts_are_bounded(self) -> None:
        attempts = self.world.attempts
        assert len(set(attempts)) == len(attempts), "each attempt has a number of its own"
        assert all(1 <= number <= MAX_ATTEMPTS for _, number in attempts)

    def teardown(self) -> None:
        """No forge refuses and nobody dies any more. Everything that waits comes to its end."""
        world = self.world
        try:
            self.runner.run(world.calm_down())
            state, labels = world.forge.state, world.forge.labels
            assert not world.forge.open or BOT not in labels, "a label that stays has its run"
            if state is not None:
                assert state.phase.terminal, state
                assert PROCESSING not in labels
                assert (DONE in labels) == (state.phase is Phase.SUCCEEDED)
            failed = {uuid for uuid, shown in world.forge.shown.items() if shown.phase is Phase.FAILED}
            strangers = {uuid for uuid in failed if world.forge.shown[uuid].reason in STRANGERS}
            assert {uuid for uuid, _ in world.broker.dead} == failed - strangers
        finally:
            self.runner.close()


TestConsumer = Consumer.TestCase
TestConsumer.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
