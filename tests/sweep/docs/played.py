"""Which shell blocks of the documentation are run, on which page and in which setting.

The tests of this folder take what they run from here, and tests/unit/docs/test_shell_blocks.py asks which
blocks no test runs.
"""

from __future__ import annotations

import re
from pathlib import Path

from coding_agent_docs.blocks import SHELLS, Block, blocks, script
from coding_agent_docs.paths import DOCS, ROOT, pages

INSTALL_ON_A_NODE = (DOCS / "install.md", ("install", "cluster"))
"""The page, and the settings of its blocks, that test_docs_install.py runs on a real node."""
QUICK_START_ON_A_NODE = (DOCS / "quick-start.md", ("quick-start",))
"""The same for test_quick_start.py."""
UNINSTALL = (DOCS / "uninstall.md", ("uninstall",))
"""The same for test_uninstall.py, on an API server."""
SETTINGS = ("checkout", "copy", "receiver", "tasks", "install", "release")
"""The settings of test_documented_commands.py, which runs every page that has blocks for them."""

Command = tuple[str, str]
"""A block's commands without their comments, and what the page says that they print, or nothing."""


def commands(page: Path, setting: str) -> list[Command]:
    """The page's blocks that are marked for this setting, in their order."""
    found: list[Command] = []
    last = False
    for block in blocks(page):
        if block.word == "run":
            last = block.what == setting
            if last:
                found.append((_commands(block), ""))
        elif block.word == "prints" and last:
            found[-1] = (found[-1][0], block.text)
    return found


def _commands(block: Block) -> str:
    return re.sub(r"\s+#.*", "", script(block))


def pages_with(setting: str) -> list[str]:
    """The pages with blocks for this setting, without a page whose blocks another page has as well."""
    found: dict[Path, list[Command]] = {}
    # Translations come last, so the original runs.
    for page in sorted(pages(), key=lambda page: page.name.endswith(".ja.md")):
        work = commands(page, setting)
        if work and not any(_covered(work, more) for more in found.values()):
            found[page] = work
    return [str(page.relative_to(ROOT)) for page in found]


def _covered(work: list[Command], more: list[Command]) -> bool:
    without_output = {run for run, _ in more}
    return all(one in more or (one[1] == "" and one[0] in without_output) for one in work)


def shell_blocks() -> list[Block]:
    """All blocks of the documentation that a person can type into a shell."""
    return [block for page in pages() for block in blocks(page) if block.language in SHELLS]


def not_played() -> list[Block]:
    """The shell blocks whose commands no test runs."""
    played = {
        (setting, run)
        for setting in SETTINGS
        for name in pages_with(setting)
        for run, _ in commands(ROOT / name, setting)
    }
    for page, settings in (INSTALL_ON_A_NODE, QUICK_START_ON_A_NODE, UNINSTALL):
        played |= {(setting, run) for setting in settings for run, _ in commands(page, setting)}
    return [
        block
        for block in shell_blocks()
        if block.word != "run" or (block.what, _commands(block)) not in played
    ]
