"""Reads the repositories of `init`: which ones an owner has, and what their files suggest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_core.errors import ForgeError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.environment import ENVIRONMENT_FILE
from coding_agent_forges.rest.setup import ForgeSetup

from kubectl_agenttask.project_files import CI_FILES, CI_FOLDERS, presets_of, suggested_environment

_CI_FILES_READ = 5
"""The number of CI files that are read of a repository; the first ones by name."""
_SHOWN = 3
"""The most suggestions that are shown on the screen."""


@dataclass(frozen=True)
class RepositorySuggestions:
    """What the files of one repository suggest.

    Attributes:
        presets: its package managers (`project_files.ECOSYSTEMS`).
        environment: the text of a `.coding-agent.yaml`; empty if it has one, or if its CI files suggest none.
        problem: why the files could not be read; empty if they were.
    """

    presets: tuple[str, ...] = ()
    environment: str = ""
    problem: str = ""


def offer(suggested: Mapping[str, RepositorySuggestions], folder: Path) -> tuple[str, dict[Path, str]]:
    """Return the text that offers the suggested files, and the local files to write. Pure.

    A few suggestions are in the text; more of them are local files, one for each repository.

    Args:
        folder: the folder of the local files.
    """
    lines = [f"unknown  files        {name}: {one.problem}" for name, one in suggested.items() if one.problem]
    offered = {name: one.environment for name, one in suggested.items() if one.environment}
    files: dict[Path, str] = {}
    if offered:
        lines.append(
            "\nThe agent repairs its work until the commands under `verify` pass. The CI files suggest this "
            f"{ENVIRONMENT_FILE}.\nCheck it, and commit it to the default branch if it is right:"
        )
    if len(offered) <= _SHOWN:
        lines += [f"\n# {name}\n{text.rstrip()}" for name, text in offered.items()]
    else:
        files = {folder / name / ENVIRONMENT_FILE: text for name, text in offered.items()}
        lines.append(f"\n  {folder}: {len(files)} files, one for each repository")
    return "\n".join(lines), files


def counted(number: int) -> str:
    """Return the number with its noun."""
    return f"{number} {'repository' if number == 1 else 'repositories'}"


@dataclass
class Progress:
    """Numbers the lines about repositories, if there are many."""

    total: int
    many: int = 10
    _number: int = field(default=0, init=False)

    def next(self, text: str) -> str:
        """Return the line of the next repository."""
        self._number += 1
        return f"{text} ({self._number} of {self.total})" if self.total > self.many else text


async def suggestions_of(
    setup: ForgeSetup, repositories: Sequence[str], tell: Callable[[str], None]
) -> dict[str, RepositorySuggestions]:
    """Read what the files of repositories suggest.

    Args:
        tell: gets the name of each repository before it is read.
    """
    found = {}
    for repository in repositories:
        tell(repository)
        try:
            found[repository] = await _suggestions(setup, repository)
        except ForgeError as error:
            # The files only help to choose values, so a person can go on without them.
            found[repository] = RepositorySuggestions(problem=str(error))
    return found


async def _suggestions(setup: ForgeSetup, repository: str) -> RepositorySuggestions:
    files = await setup.files(repository)
    presets = presets_of(files)
    if ENVIRONMENT_FILE in files:
        return RepositorySuggestions(presets)
    texts = [await setup.text(repository, file) for file in await _ci_files(setup, repository, files)]
    return RepositorySuggestions(presets, suggested_environment(texts) or "")


async def _ci_files(setup: ForgeSetup, repository: str, files: frozenset[str]) -> list[str]:
    platform = Platform(setup.forge.platform)
    if platform in CI_FILES:
        return [CI_FILES[platform]] if CI_FILES[platform] in files else []
    # Gitea and Forgejo read GitHub's folder too.
    for folder in dict.fromkeys((CI_FOLDERS[platform], CI_FOLDERS[Platform.GITHUB])):
        if folder.partition("/")[0] in files:
            names = sorted(await setup.files(repository, folder))
            found = [f"{folder}/{name}" for name in names if name.endswith((".yml", ".yaml"))]
            if found:
                return found[:_CI_FILES_READ]
    return []
