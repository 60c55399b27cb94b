"""What people do with commands, on either forge."""

import time

from coding_agent_testbed.forge.model import Comment
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, System
from tests.integration.main_job.scripts import finish, run, write

FLOW = {BOT, PROCESSING, DONE}


def scripts() -> list[Script]:
    """Works for ever, until the conversation on the item has a `/retry`."""
    return [
        Script(match="/retry", turns=(run("echo whole >> half.md"), finish("Went on."))),
        Script(turns=(write("half.md", "half\n"), run("sleep 600"), finish())),
    ]


def say(system: System, text: str, *, by: str = "alice") -> Comment:
    """Somebody writes a comment.

    What depends on the order of events is said in another second than all before: forges tell no less.
    """
    if text in ("/cancel", "/retry"):
        next_second()
    identifier = system.forge.comment(REPOSITORY, 1, text, by=by)
    return next(comment for comment in system.item(1).comments if comment.id == identifier)


def next_second() -> None:
    """Wait for it."""
    now = int(time.time())
    until("the next second", lambda: int(time.time()) > now)


def seen(comment: Comment) -> list[tuple[str, str]]:
    """The reactions to a comment."""
    return [(reaction.user.login, reaction.name) for reaction in comment.reactions]


def wait_until_seen(comment: Comment) -> None:
    """The bot shows that it has carried the command out."""
    until(f"a reaction to {comment.body!r}", lambda: seen(comment) == [("coding-agent-bot", "eyes")])


def bots(system: System) -> list[Comment]:
    """What the bot has written itself; the test lets it write commands too."""
    return [
        comment
        for comment in system.comments(1)
        if comment.author.login == "coding-agent-bot" and not comment.body.startswith("/")
    ]


def wait_for_report(system: System, text: str) -> str:
    """Wait until the bot's comment on the first issue has the text; all of it."""
    return str(
        until(f"{text!r} in the comment", lambda: next((c.body for c in bots(system) if text in c.body), ""))
    )
