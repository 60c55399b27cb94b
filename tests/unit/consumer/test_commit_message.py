"""What the message of a commit says."""

import pytest
from coding_agent_consumer.commits import commit_message
from coding_agent_core.forge.values import CommitIdentity
from coding_agent_core.text import BREAK

ALICE = CommitIdentity("Alice", "7+alice@users.noreply.github.com")
FOOTER = "For o/r#7: https://forge.test/o/r/7"


def message(summary: str, *, finished: bool = True, asked_by: CommitIdentity | None = None) -> str:
    return commit_message(
        summary, finished=finished, item_title="Prices are wrong", footer=FOOTER, asked_by=asked_by
    )


def test_title_summary_item_and_who_asked() -> None:
    assert message("Start the discount at the step. It began one later.", asked_by=ALICE) == (
        "Start the discount at the step\n\n"
        "> Start the discount at the step. It began one later.\n\n"
        f"{FOOTER}\n\n"
        "Co-authored-by: Alice <7+alice@users.noreply.github.com>\n"
    )


@pytest.mark.parametrize(
    ("summary", "subject"),
    [
        ("Fix `bulk_discount`.", "Fix `bulk_discount`"),
        ("\n\n## Summary of v1.2\n\ntext", "Summary of v1.2"),
        ("- **Round** the price\n- Test it", "Round the price"),
        ("---\nRound!", "Round!"),
        ("", "Prices are wrong"),
        ("word " * 40, "word " * 13 + "word…"),
        ("x" * 100, "x" * 71 + "…"),
        (f"Start the discount at the step itself: with {'x' * 60}", "Start the discount at the step itself"),
    ],
)
def test_the_title_is_the_first_sentence_cut_to_72(summary: str, subject: str) -> None:
    first = message(summary).partition("\n")[0]
    assert first == subject
    assert len(first) <= 72


def test_unfinished_work_is_named_after_the_item() -> None:
    assert message("", finished=False) == f"Work so far on Prices are wrong\n\n{FOOTER}\n"


@pytest.mark.parametrize("summary", ["[skip ci] all", "Closes #1 and PROJ-1 #close", "Tell @all"])
def test_nothing_in_it_is_executed(summary: str) -> None:
    text = message(summary, asked_by=CommitIdentity("[skip ci] <x>\nSigned-off-by: eve", "a@b"))
    for active in ("[skip", "#1", "#close", "@all", "\nSigned-off-by"):
        assert active not in text
    assert f"Co-authored-by: [{BREAK}skip ci] x Signed-off-by: eve <a@b>\n" in text
