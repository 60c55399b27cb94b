"""The consumer of a queue, whatever happens in whatever order (hypothesis).

People label, unlabel, command and close. Messages come twice. A consumer dies or loses its connection between
any two of its requests to forge or broker, and any request to the forge can fail. At no moment do two
consumers work on the item, is an attempt's number used twice, or does work begin after its label went. Once
the world calms down, comment, labels and dead-letter queue agree, no label waits for its run, and every round
is recorded.
"""

from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.consumer.simulation import (
    BOT,
    COMPLETED,
    DONE,
    MAX_ATTEMPTS,
    PROCESSING,
    UNAVAILABLE,
    Answer,
    Process,
    World,
)
from tests.unit.core_task.test_stored_rounds import CHECKS

OUTCOMES = [
    UNAVAILABLE,
    UNAVAILABLE,
    COMPLETED,
    Outcome(reason=Reason.TOOL_FAILING, message="A tool failed."),
    Outcome(reason=Reason.NOT_AUTHORIZED, message="A stranger asked."),
]
STRANGERS = (Reason.NOT_AUTHORIZED, Reason.NOT_APPROVED)
REQUESTS = [
    *[
        "lock",
        "read",
        "find_comment",
        "upsert_comment",
        "add_label",
        "remove_label",
        "label_history",
        "clone",
    ],
    *["open_change", *["publish"] * 8, "acknowledge", "acknowledge"],
]
ACTS = ["label", "label again", "unlabel", "relabel", "command", "cancel", "publish", "round", "close"]
FAULTS = [
    *["die"] * 8,
    "stop",
    "lose the network",
    *["lose the broker"] * 3,
    "reconnect",
    "the broker restarts",
]
EVENTS = [*ACTS, *FAULTS, *Answer]
PERSON, OWN = "alice", "bot"
PATIENCE = 40
"""Turns of `meet`."""
processes = st.integers(0, 2)


class Consumers(RuleBasedStateMachine):
    """People, forge, broker and consumers take turns in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=8))
    def begin(self, outcomes: list[Outcome]) -> None:
        self.world.outcomes = outcomes
        self.world.label()

    @rule(turns=st.lists(processes, min_size=5, max_size=50))
    def work(self, turns: list[int]) -> None:
        """Each of these processes makes its next request."""
        for which in turns:
            self._turn(which)

    @rule(
        events=st.lists(st.tuples(st.sampled_from(REQUESTS), st.sampled_from(EVENTS)), min_size=2, max_size=6)
    )
    def meet(self, events: list[tuple[str, str | Answer]]) -> None:
        """All work until one is about to make such a request; then this happens, and so on."""
        for name, event in events:
            if not self.world.broker.messages and self.world.item.open:
                self.world.label(PERSON)
            for turn in range(PATIENCE):
                about = [one for one in self.world.processes if one.next_request == name]
                if about:
                    self._happen(about[0], event)
                    break
                self._turn(turn)

    def _turn(self, which: int) -> None:
        """A process makes its next request; if none wants to, time passes."""
        able = [process for process in self.world.processes if process.next_request]
        if able:
            able[which % len(able)].pass_one()
        else:
            self.world.sleep(15)

    def _happen(self, process: Process, what: str | Answer) -> None:
        world = self.world
        match what:
            case Answer():
                process.pass_one(what)
            case "die":
                process.kill()
            case "stop":  # and it is started again
                process.stop.set()
                world.settle_down()
            case "lose the network":
                process.lose_network()
            case "lose the broker":
                process.lose_broker()
            case "the broker restarts":  # its clients are back long before others may take their locks
                process.disconnect()
                world.reconnect(process)
            case "reconnect":
                for away in world.processes:
                    world.reconnect(away)
            case "unlabel":
                world.unlabel(PERSON)
            case "cancel":  # our own account does what a person commands
                world.unlabel(OWN)
            case "relabel":
                world.unlabel(PERSON)
                world.sleep(1)
                world.label(PERSON)
            case "publish":  # the message comes twice
                if BOT in world.item.labels:
                    world.publish()
            case "round":  # twice, because two consumers may look at once
                world.publish_round(CHECKS)
                world.publish_round(CHECKS)
            case "close":
                if len(world.attempts) > 2:
                    world.close_item()
            case _:
                if world.item.open:
                    world.label(OWN if what == "command" else PERSON)

    @invariant()
    def the_past_is_in_order(self) -> None:
        world = self.world
        working = [one for one in world.working if not _is_cut_off(one.process)]
        assert len(working) <= 1, "two consumers never work at a time"
        assert len(set(world.attempts)) == len(world.attempts), "no number is used twice"
        assert all(1 <= number <= MAX_ATTEMPTS for _, _, number in world.attempts)
        assert not world.unlabeled, "no attempt starts after its label went"
        assert len(world.item.changes) <= 1, "all work has one change"

    def teardown(self) -> None:
        """No forge refuses and nobody dies any more. Everything that waits comes to its end."""
        world, item = self.world, self.world.item
        try:
            world.calm_down()
            state, labels = item.state, item.labels
            assert not item.open or BOT not in labels, "a label that stays has its run"
            assert PROCESSING not in labels, "nothing stays processing"
            if state is not None:
                assert state.phase.terminal, "nothing waits for an attempt that never comes"
                assert (DONE in labels) == (state.phase is Phase.SUCCEEDED), "comment and labels agree"
            if item.labeled and item.open and not item.taken_unread:
                assert state is not None
                assert state.phase in (Phase.SUCCEEDED, Phase.FAILED), "what is wanted is not cancelled"
            failed = {uuid for uuid, shown in item.shown_last.items() if shown.phase is Phase.FAILED}
            failed -= {uuid for uuid in failed if item.shown_last[uuid].reason in STRANGERS}
            dead = {task.uuid for task in world.broker.dead}
            assert dead <= item.failed, "comment and dead-letter queue agree"
            # If its consumer died before the message was settled, the next run's comment may be there first.
            replaced = world.broker.returned - {state.uuid} if state else set()
            assert failed - dead <= replaced, "comment and dead-letter queue agree"
            if item.open:
                world.publish_round(CHECKS)  # the next look, if none was recorded
                world.calm_down()
                assert item.state is not None
                assert item.state.rounds is not None, "every round is recorded"
                assert item.state.rounds.has(CHECKS), "every round is recorded"
                assert PROCESSING not in item.labels, "nothing stays processing"
        finally:
            world.close()


def _is_cut_off(process: Process) -> bool:
    """It lost its claim, or cannot know yet whether it did."""
    return not process.connected.is_set() or process.claim is None or process.claim.lost.is_set()


TestConsumers = Consumers.TestCase
TestConsumers.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
