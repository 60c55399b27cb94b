"""Commands in comments and labels that name an agent, end to end on one machine."""

import re

import httpx2
from coding_agent_testbed.forge.model import Comment
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System
from tests.integration.issue_commands.steps import (
    FLOW,
    bots,
    say,
    scripts,
    seen,
    wait_for_report,
    wait_until_seen,
)


def redeliver_everything(system: System) -> None:
    """The forge sends every event again, as a person can ask it to."""
    deliveries = system.forge.sandbox.deliveries
    told = system.forge.run(lambda: list(deliveries.log))
    again = system.forge.run(lambda: [deliveries.resend(found) for found in told])
    system.forge.wait_for(lambda: all(item.status != "pending" for item in again), 60)
    assert {entry.status_code for entry in again} == {200}


def type_on_the_page(system: System, text: str) -> Comment:
    """Alice writes a comment in the browser, which sends line ends as CRLF."""
    here = system.forge.sandbox.url_of(system.forge.repository(REPOSITORY), system.item(1))
    sent = httpx2.post(f"{here}/comments", data={"body": f"{text}\r\nonce more"}, timeout=60)
    assert sent.status_code == 303
    return system.comments(1)[-1]


def put_at_once(system: System, *labels: str) -> None:
    """Alice puts labels on, one by one, before anybody can react to the first."""
    store, repository = system.forge.sandbox.store, system.forge.repository(REPOSITORY)
    item, alice = system.item(1), system.forge.user("alice")

    def put() -> None:
        for label in labels:
            store.update(repository, item, alice, add=[label])

    system.forge.run(put)


def test_people_with_write_access_command_the_agent_by_comments(start_system: StartSystem) -> None:
    system = start_system("github", scripts(), webhook={"commands": {"enabled": True}})
    program = system.start_webhook()

    # /run starts nothing on an item that never had a task
    say(system, "/run\nand please be careful")
    until("the log says why", lambda: "apply the label to start one" in program.text())
    system.put_label(1)
    wait_for_report(system, "working on it")
    until("the agent is at work", lambda: len(system.model.requests) >= 2)
    system.wait_for_label(1, PROCESSING)

    # nobody without write access, and never the bot itself
    strangers = [say(system, "/cancel", by="reader"), say(system, "/cancel", by="coding-agent-bot")]
    until("both are refused in the log", lambda: program.text().count("refused") == 2)
    assert "reader has no write access" in program.text()
    assert [seen(stranger) for stranger in strangers] == [[], []], "no answer: nobody can make the bot write"

    wait_until_seen(type_on_the_page(system, "/run"))
    here = system.forge.sandbox.url_of(system.forge.repository(REPOSITORY), system.item(1))
    page = httpx2.get(here, timeout=60)
    assert page.text.count("\N{EYES}") == 1, "a person sees on the page what was taken"
    assert "working on it" in bots(system)[0].body, "the task goes on, and there is still one"

    cancel = say(system, "/cancel")
    cancelled = wait_for_report(system, "Coding agent: cancelled")
    assert "alice cancelled it with a comment." in cancelled
    wait_until_seen(cancel)
    until("the labels of the flow are gone", lambda: not system.labels(1) & FLOW)
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\n", "work so far is pushed"

    say(system, "/retry")
    system.wait_for_label(1, DONE)
    assert "-r2`" in wait_for_report(system, "Coding agent: done")
    assert system.file_at("coding-agent/issue-1", "half.md") == "half\nwhole\n", "it went on from there"

    nothing = say(system, "/retry")
    wait_until_seen(nothing)
    until("the log says why", lambda: "the last task succeeded; /run starts another" in program.text())

    redeliver_everything(system)
    wait_until_seen(say(system, "/retry"))
    text = program.text()
    assert (text.count("done: requested"), text.count("done: cancelled")) == (1, 1), (
        "each command once, however often it is delivered"
    )
    assert len(system.changes()) == 1
    assert len(bots(system)) == 1, "one comment of the bot, edited in place"
    assert "-r2`" in bots(system)[0].body, "nothing ran again"

    metrics = httpx2.get(
        f"http://127.0.0.1:{program.port()}/metrics", headers={"accept": "text/plain"}, timeout=60
    )
    refused = re.search(
        r'commands_total\{command="cancel",platform="github",result="refused"\} (\S+)', metrics.text
    )
    # Two, each delivered twice. One that is delivered once more, or repeated after a conflict, counts again.
    assert refused is not None
    assert float(refused[1]) >= 4


def test_a_label_that_names_a_coding_agent_is_enough(start_system: StartSystem) -> None:
    """With the other label it makes one task. Its removal stops the task. A command keeps the agent."""
    other = {"runner": "command", "command": ["false"], "max_attempts": 1}
    system = start_system("gitlab", scripts(), consumer=other, webhook={"commands": {"enabled": True}})
    program = system.start_webhook()
    put_at_once(system, f"{BOT}: builtin", BOT)
    until("both labels are swapped", lambda: {PROCESSING, "bug"} == system.labels(1))
    until("the built-in agent is at work", lambda: len(system.model.requests) >= 2)
    system.forge.remove_label(REPOSITORY, 1, PROCESSING)
    wait_for_report(system, "Coding agent: cancelled")
    say(system, "/retry")
    system.wait_for_label(1, DONE)
    assert "-r2`" in wait_for_report(system, "Coding agent: done")
    redeliver_everything(system)
    assert program.text().count("Task queued") == 1
