"""Keep one GitHub issue for each red test: ``python -m coding_agent_testbed.tiers.red_issues FOLDER``.

A workflow runs it after a night, with the JUnit files of all tiers in FOLDER and `gh` on the path. It needs
the standard library alone, so that the job installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from coding_agent_testbed.tiers.reports import JUNIT, Red, outcome

LABEL = "nightly"
MOST_ISSUES = 20
"""Opened in one night. More red tests than that have one cause; the run's table lists them all."""
MOST_OPEN = 500
"""Issues with the label that are looked at."""
TITLE_CHARACTERS = 250
"""GitHub takes 256."""
TIMEOUT_S = 60


def title(red: Red) -> str:
    """The title by which a test's issue is found again."""
    return f"Red at night: {red.test}"[:TITLE_CHARACTERS]


def report(reds: Sequence[Red], link: str, gh: Callable[..., str]) -> None:
    """Comment on the open issue of each red test, or open one.

    Args:
        reds: the tests.
        link: to the run that saw them.
        gh: runs `gh` with the given arguments and returns what it printed.
    """
    gh("label", "create", LABEL, "--force", "--description", "A test that was red at night")
    listed = gh("issue", "list", "--label", LABEL, "--limit", str(MOST_OPEN), "--json", "number,title")
    numbers = {issue["title"]: str(issue["number"]) for issue in json.loads(listed)}
    unknown = 0
    for red in reds:
        # Indented, a test's text is code and mentions nobody.
        body = f"    {red.line}\n\n{link}"
        if number := numbers.get(title(red)):
            gh("issue", "comment", number, "--body", body)
            continue
        unknown += 1
        if unknown <= MOST_ISSUES:
            gh("issue", "create", "--label", LABEL, "--title", title(red), "--body", body)
    if unknown > MOST_ISSUES:
        print(f"{unknown} red tests had no issue; {MOST_ISSUES} of them have one now.", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Read all reports below a folder; the second argument is a link to the run."""
    folder, link = Path(arguments[0]), arguments[1]
    reds = [
        red
        for file in sorted(folder.rglob(f"*{JUNIT}"))
        for red in outcome(file.name.removesuffix(JUNIT), file, 0, 0.0).red
    ]
    print(f"{len(reds)} red tests", flush=True)
    if reds:
        report(reds, link, _gh)
    return 0


def _gh(*arguments: str) -> str:
    done = subprocess.run(
        ["gh", *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
