"""The signature of the hidden line: which lines count for which item, with which keys."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_core.task.model import Item, Phase
from coding_agent_forges.rest.hidden_line import CheckedBody, HiddenLines, checked, signed

from tests.unit.forges.wire import ITEMS

KEY, OTHER = "k" * 32, "o" * 32
ITEM = ITEMS[Platform.GITHUB]
PROJECT = ITEMS[Platform.GITLAB]
STATE = State(uuid="u", phase=Phase.SUCCEEDED, user="alice")
LINE = f"{MARKER}{STATE.model_dump_json(exclude_none=True)} -->"
BODY = f"Done.\n\n{LINE}"
SIGNED = signed(BODY, ITEM, [KEY])
SIGNATURE = SIGNED.removeprefix(BODY)
FORGED = LINE.replace("alice", "mallory")


def other(**changes: Any) -> Item:
    return ITEM.model_copy(update=changes)


COUNT: list[tuple[str, str, Item, list[str], State | None]] = [
    ("as it was written", SIGNED, ITEM, [KEY], STATE),
    ("the new key of a rotation signs, the old one still verifies", SIGNED, ITEM, [OTHER, KEY], STATE),
    ("the key is another", SIGNED, ITEM, [OTHER], None),
    ("no key: nothing is checked", BODY, ITEM, [], STATE),
    ("the key was removed again", SIGNED, ITEM, [], STATE),
    ("not signed", BODY, ITEM, [KEY], None),
    ("edited", SIGNED.replace("alice", "mallory"), ITEM, [KEY], None),
    ("a forged line before ours", f"{FORGED}\n{SIGNED}", ITEM, [KEY], None),
    ("a forged line behind ours", f"{SIGNED}\n{FORGED}", ITEM, [KEY], STATE),
    ("a forged line between ours and its signature", f"{BODY}{FORGED}{SIGNATURE}", ITEM, [KEY], None),
    ("the signature is not behind the line", f"{SIGNATURE}{BODY}", ITEM, [KEY], None),
    ("half of the signature is gone", SIGNED[:-20], ITEM, [KEY], None),
    ("the forge changed the ends of lines", SIGNED.replace("\n", "\r\n") + "\r\n", ITEM, [KEY], STATE),
    ("people may edit the visible text", SIGNED.replace("Done.", "Hello."), ITEM, [KEY], STATE),
    ("of another issue", SIGNED, other(number=8), [KEY], None),
    ("of the pull request with this number", SIGNED, other(kind=ItemKind.CHANGE), [KEY], None),
    ("of another host", SIGNED, other(host="ghe.example.com"), [KEY], None),
    ("of another platform", SIGNED, other(platform=Platform.GITEA), [KEY], None),
    ("the host in capitals", SIGNED, other(host="GitHub.com", repository="Acme/Pricing"), [KEY], STATE),
    (
        "the place is replaced",
        SIGNED.replace("acme/pricing", "eve/x"),
        other(repository="eve/x"),
        [KEY],
        None,
    ),
    ("a project of GitLab", signed(BODY, PROJECT, [KEY]), PROJECT, [KEY], STATE),
    (
        "a project that was moved keeps its number",
        signed(BODY, PROJECT, [KEY]),
        PROJECT.model_copy(update={"repository": "acme/costs"}),
        [KEY],
        STATE,
    ),
]


@pytest.mark.parametrize(
    ("body", "item", "keys", "state"), [row[1:] for row in COUNT], ids=[row[0] for row in COUNT]
)
def test_which_lines_count(body: str, item: Item, keys: list[str], state: State | None) -> None:
    found = checked(body, item, keys)
    assert (read_state(found.body), bool(found.problem)) == (state, state is None)
    assert found.place == ""
    assert MARKER in found.body, "it is still our comment"
    assert "signature" not in found.body or not state or body.count("signature") != 1


def test_what_is_read_is_what_was_written() -> None:
    assert checked(SIGNED, ITEM, [KEY]).body == BODY
    assert signed(BODY, ITEM, []) == BODY
    assert signed("I replied.", ITEM, [KEY]) == "I replied."
    assert read_state(SIGNED) == STATE, "whoever reads a comment without checking it sees the same state"


def test_a_line_of_another_repository_is_left_to_the_forge() -> None:
    """Either the repository was renamed, or somebody copied the line; only the forge knows."""
    renamed = checked(SIGNED, other(repository="acme/costs"), [KEY])
    assert (renamed.problem, renamed.place, read_state(renamed.body)) == ("", "acme/pricing", STATE)
    project = checked(signed(BODY, PROJECT, [KEY]), PROJECT.model_copy(update={"project_id": 4}), [KEY])
    assert project.place == "3"


@pytest.mark.parametrize("text", ["\ud800", "\0", "ü 🎉", "x" * 100_000])
def test_any_text_can_be_signed_and_checked(text: str) -> None:
    """An answer in JSON can contain half of a surrogate pair."""
    body = f'{MARKER}{{"uuid":"{text}"}} -->'
    assert checked(signed(body, ITEM, [KEY]), ITEM, [KEY]) == CheckedBody(body)


def test_an_ignored_line_is_not_signed_when_the_comment_is_edited() -> None:
    read = checked(f"Hi\n{FORGED}", ITEM, [KEY]).body
    assert signed(read, ITEM, [KEY]) == read


def lines_with(*files: Path) -> HiddenLines:
    return HiddenLines(Secrets(SecretSettings(files=files)))


def test_a_key_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{OTHER}\n")
    lines = lines_with(file)
    assert lines.checked(ITEM, SIGNED).problem
    file.write_text(f"{KEY} \n\n")
    assert lines.signed(ITEM, BODY) == SIGNED


@pytest.mark.parametrize("text", [None, "", "short"])
@pytest.mark.parametrize(
    "act", [lambda lines: lines.checked(ITEM, BODY), lambda lines: lines.signed(ITEM, BODY)]
)
def test_a_key_that_is_missing_is_not_no_key(
    tmp_path: Path, text: str | None, act: Callable[[HiddenLines], object]
) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(SettingsError, match="comment_key"):
        act(lines_with(tmp_path / "key"))


def test_a_short_key_is_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match="at least 32 characters"):
        Settings.model_validate({"comment_key": "short"})
    assert len(Settings.model_validate({"comment_key": [KEY, OTHER]}).comment_key.values) == 2


def test_a_line_that_does_not_count_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lines = HiddenLines(Secrets(Settings.model_validate({"comment_key": KEY}).comment_key))
    for body in (BODY, BODY, SIGNED, SIGNED.replace("alice", "mallory")):
        lines.checked(ITEM, body)
    assert [entry.getMessage().partition(": ")[2][:22] for entry in caplog.records] == [
        "it is not signed",
        "its signature is wrong",
    ]
    assert all("acme/pricing#7" in entry.getMessage() for entry in caplog.records)
