"""One process with the queue in its memory is killed in the middle of a task; the next one finds the task."""

from coding_agent_model.script import Script

from tests.fixtures.system import DONE, PROCESSING, StartSystem, System, until
from tests.integration.main_job.scripts import finish, run, script, write

CONTINUED = Script(match="An earlier attempt", turns=(write("b.md", "b\n"), finish("Took its time.")))
SLOW = script(write("a.md", "a\n"), run("sleep 600"), finish())


def at_work(system: System) -> None:
    until(lambda: len(system.model.requests) >= 2, "the agent is in mid-task")
    until(lambda: system.labels(1) >= {PROCESSING}, "the item shows it")


def test_the_task_goes_on(start_system: StartSystem) -> None:
    system = start_system("gitlab", [CONTINUED, *SLOW], scheduling={"interval": 1})
    first = system.start_webhook()
    system.put_label(1)
    at_work(system)
    first.kill()
    system.start("--mode", "webhook")
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "attempt 2 of 3" in comment.body
    assert "-r2" not in comment.body, "it is the same run"
    assert len(system.changes()) == 1


def test_the_task_of_a_living_process_is_left_alone(start_system: StartSystem) -> None:
    """As when cron starts a process while the last one still works."""
    system = start_system("github", [CONTINUED, *SLOW], scheduling={"interval": 1})
    first = system.start_webhook()
    system.put_label(1)
    at_work(system)
    second = system.start()  # it polls once and ends, as it has found nothing
    assert second.process.wait(120) == 0
    assert "0 labeled" in second.text()
    first.kill()
    system.start()
    system.wait_for_label(1, DONE)
    assert "attempt 2 of 3" in system.comments(1)[0].body
