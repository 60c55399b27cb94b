"""A token that is replaced while an attempt works, as a GitHub App's is every hour: the work is delivered."""

import logging
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.attempts import Outcome
from coding_agent_core.reasons import Reason

from tests.fixtures.system import BOT_TOKEN
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace

NEW_TOKEN = "the-next-token-of-the-bot-5353"


class Rotating:
    """An agent during whose work the token is replaced, on the forge and in its file."""

    def __init__(self, place: AttemptPlace, file: Path) -> None:
        self._place, self._file = place, file

    async def work(self, brief: object, workspace: Workspace, **_: object) -> Outcome:
        await workspace.write_file("a.md", "a\n")
        forge = self._place.system.forge
        user = forge.user("coding-agent-bot")
        forge.run(lambda: setattr(user, "token", NEW_TOKEN))
        self._file.write_text(NEW_TOKEN)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Wrote it.")


async def test_the_work_is_pushed_with_the_new_token(
    make_place: MakePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = make_place("github", [])
    file = tmp_path / "token"
    file.write_text(BOT_TOKEN)
    sections: dict[str, Any] = {"github": {"personal_access_token": {"files": [str(file)]}}}
    outcome = await place.run(place.given(), make_agent=lambda *_: Rotating(place, file), **sections)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert place.system.file_at("coding-agent/issue-1", "a.md") == "a\n"
    [change] = place.system.changes()
    assert change.author.login == "coding-agent-bot"
    for token in (BOT_TOKEN, NEW_TOKEN):
        assert token not in caplog.text + outcome.model_dump_json() + change.body
