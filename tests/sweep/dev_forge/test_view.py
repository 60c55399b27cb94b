"""What the pages show."""

from __future__ import annotations

import pytest
from coding_agent_forge.model import Label
from coding_agent_forge.web.view import chip_style, diff_lines, visible


def test_a_diff_line_by_line() -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n same"

    assert [line.kind for line in diff_lines(diff)] == [
        "file",
        "hunk",
        "hunk",
        "hunk",
        "removed",
        "added",
        "same",
    ]


def test_html_comments_are_not_shown() -> None:
    assert visible("<!-- marker\nof ours -->\nWorking") == "Working"


@pytest.mark.parametrize(
    ("color", "style"),
    [
        ("fbca04", "background:#fbca04;color:#1c2128"),
        ("0e8a16", "background:#0e8a16;color:#ffffff"),
        ("red;x:y", "background:#ededed;color:#1c2128"),
    ],
)
def test_letters_on_a_label_can_be_read(color: str, style: str) -> None:
    assert chip_style(Label(1, "bug", color)) == style
