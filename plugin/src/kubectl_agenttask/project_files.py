"""What the files of a repository suggest: hosts of package registries, and commands that check work. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.environment import ENVIRONMENT_FILE, MAX_VERIFY_COMMANDS


@dataclass(frozen=True)
class Ecosystem:
    """A package manager.

    Attributes:
        files: patterns of the files that show its use.
        hosts: where it downloads packages by default.
    """

    files: tuple[str, ...]
    hosts: tuple[str, ...]


ECOSYSTEMS = {
    "npm": Ecosystem(
        ("package.json", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml"),
        ("registry.npmjs.org", "registry.yarnpkg.com"),
    ),
    "pypi": Ecosystem(
        ("pyproject.toml", "requirements*.txt", "setup.py", "poetry.lock", "uv.lock", "Pipfile.lock"),
        ("pypi.org", "files.pythonhosted.org"),
    ),
    "go": Ecosystem(("go.mod", "go.work"), ("proxy.golang.org", "sum.golang.org")),
    "maven": Ecosystem(("pom.xml",), ("repo.maven.apache.org",)),
    "gradle": Ecosystem(
        ("build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts"),
        (
            "repo.maven.apache.org",
            "plugins.gradle.org",
            "plugins-artifacts.gradle.org",
            "services.gradle.org",
            "downloads.gradle.org",
        ),
    ),
    "crates": Ecosystem(("Cargo.toml", "Cargo.lock"), ("index.crates.io", "static.crates.io")),
    "rubygems": Ecosystem(("Gemfile", "Gemfile.lock"), ("rubygems.org", "index.rubygems.org")),
    "nuget": Ecosystem(("*.sln", "*.csproj", "packages.lock.json"), ("api.nuget.org",)),
}
"""The package managers by the names of their presets. Composer is not among them: its packages come from
GitHub, which is a place to upload code to."""

CI_FOLDERS = {Platform.GITHUB: ".github/workflows", Platform.GITEA: ".gitea/workflows"}
"""The folder of a forge's CI files."""
CI_FILES = {Platform.GITLAB: ".gitlab-ci.yml"}
"""The one CI file of a forge, in the root."""
_STEPS_OF_ANYWHERE = re.compile(r"[;|&<>`\\]|\$\{\{|\$\(|\$[A-Za-z_{]")
"""Matches what makes a command depend on the CI's environment, or more than one command."""
_RUN_BY = r"(?:python3? -m |uv run |poetry run |pipenv run |npx |bundle exec )?"
_SETUP = re.compile(
    r"npm (?:ci|install)\b.*|yarn(?: install)?(?: --\S+)*|pnpm install\b.*"
    r"|(?:uv |python3? -m )?pip install (?:-r|-e|\.|--requirement|--editable)\S*.*"
    r"|uv sync\b.*|poetry install\b.*"
    r"|bundle install\b.*|go mod download|dotnet restore\b.*|cargo fetch\b.*"
)
_VERIFY = re.compile(
    r"npm (?:test|t)\b.*|npm run (?:test|lint|check|typecheck|build)\S*"
    r"|(?:yarn|pnpm)(?: run)? (?:test|lint|build)\S*"
    rf"|{_RUN_BY}(?:pytest|tox|nox|ruff check|mypy|eslint|tsc|rspec|rake test|rubocop)\b.*"
    r"|go (?:test|vet|build)\b.*|cargo (?:test|clippy|check|build|fmt --check|fmt --all -- --check)\b.*"
    r"|(?:\./)?mvnw? .*\b(?:test|verify)\b.*|(?:\./gradlew|gradle) .*\b(?:test|check|build)\b.*"
    r"|make (?:test|check|lint)\b.*|dotnet (?:test|build)\b.*"
)


def presets_of(files: Collection[str]) -> tuple[str, ...]:
    """Return the names of the package managers that the files in a repository's root show."""
    return tuple(
        name
        for name, ecosystem in ECOSYSTEMS.items()
        if any(fnmatchcase(file, pattern) for file in files for pattern in ecosystem.files)
    )


def hosts_of(presets: Iterable[str]) -> list[str]:
    """Return the hosts of package managers, each once."""
    return list(dict.fromkeys(host for name in presets for host in ECOSYSTEMS[name].hosts))


def suggested_environment(ci_texts: Iterable[str]) -> str | None:
    """Return a `.coding-agent.yaml` with the commands of CI files; `None` if they have no check that we know.

    It has only commands that mean the same in a plain checkout: no expressions and variables of the CI, no
    pipes, and no steps in another folder.
    """
    commands = list(dict.fromkeys(command for text in ci_texts for command in _commands(text)))
    verify = [one for one in commands if _VERIFY.fullmatch(one)][:MAX_VERIFY_COMMANDS]
    if not verify:
        return None
    setup = [one for one in commands if _SETUP.fullmatch(one) and one not in verify]
    content = ({"setup": setup} if setup else {}) | {"verify": verify}
    head = f"# {ENVIRONMENT_FILE}, from the commands of the CI files\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _commands(text: str) -> Iterator[str]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    for script in _scripts(content):
        for line in script.splitlines():
            command = line.strip()
            if command and not _STEPS_OF_ANYWHERE.search(command):
                yield command


def _scripts(content: Any) -> Iterator[str]:
    """Yield the scripts of a workflow of GitHub or Gitea, or of the jobs of GitLab."""
    if not isinstance(content, Mapping):
        return
    jobs = content.get("jobs")
    if isinstance(jobs, Mapping):
        for job in jobs.values():
            steps = job.get("steps") if isinstance(job, Mapping) else None
            for step in steps if isinstance(steps, list) else ():
                if isinstance(step, Mapping) and "working-directory" not in step:
                    yield from _lines(step.get("run"))
        return
    default = content.get("default")
    for job in (content, default, *content.values()):
        if isinstance(job, Mapping):
            yield from _lines(job.get("before_script"))
            yield from _lines(job.get("script"))


def _lines(script: Any) -> Iterator[str]:
    for one in script if isinstance(script, list) else [script]:
        if isinstance(one, str):
            yield one
