"""What files of a repository suggest."""

from __future__ import annotations

import pytest
import yaml
from coding_agent_consumer.item.background import read_file
from coding_agent_core.settings.connections import HostPattern
from coding_agent_core.task.egress import Preset
from coding_agent_core.task.environment import MAX_VERIFY_COMMANDS
from kubectl_agenttask.project_files import ECOSYSTEMS, hosts_of, presets_of, suggested_environment
from pydantic import TypeAdapter


@pytest.mark.parametrize(
    ("files", "presets"),
    [
        ((), ()),
        (("README.md", "main.c"), ()),
        (("package-lock.json",), ("npm",)),
        (("yarn.lock", "go.mod", "go.sum"), ("npm", "go")),
        (("requirements-dev.txt",), ("pypi",)),
        (("pyproject.toml", "uv.lock"), ("pypi",)),
        (("pom.xml",), ("maven",)),
        (("build.gradle.kts", "gradlew"), ("gradle",)),
        (("Cargo.lock",), ("crates",)),
        (("Gemfile.lock",), ("rubygems",)),
        (("Shop.sln",), ("nuget",)),
        (("composer.lock",), ()),
    ],
)
def test_the_files_in_the_root_show_the_package_managers(
    files: tuple[str, ...], presets: tuple[str, ...]
) -> None:
    assert presets_of(files) == presets


def test_each_preset_is_one_that_the_settings_take_and_no_host_is_named_twice() -> None:
    settings = TypeAdapter(dict[Preset, tuple[HostPattern, ...]])
    settings.validate_python({name: hosts_of([name]) for name in ECOSYSTEMS})
    assert hosts_of(["maven", "gradle"]).count("repo.maven.apache.org") == 1


def workflow(*commands: str, **step: str) -> str:
    steps = [{"uses": "actions/checkout@v4"}, *({"run": command} | step for command in commands)]
    return yaml.safe_dump({"on": ["push"], "jobs": {"test": {"runs-on": "ubuntu-latest", "steps": steps}}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (workflow("npm ci", "npm test"), {"setup": ["npm ci"], "verify": ["npm test"]}),
        (workflow("pip install -r requirements.txt\npytest -q"), None),
        (workflow("python -m pip install -r r.txt", "python -m pytest -q"), None),
        (workflow("go vet ./...", "go test ./..."), {"verify": ["go vet ./...", "go test ./..."]}),
        (workflow("cargo test --locked"), {"verify": ["cargo test --locked"]}),
        (workflow("./mvnw -B verify"), {"verify": ["./mvnw -B verify"]}),
        (workflow("./gradlew check"), {"verify": ["./gradlew check"]}),
        (workflow("make lint", "make test"), {"verify": ["make lint", "make test"]}),
        (workflow("uv sync", "uv run pytest"), {"setup": ["uv sync"], "verify": ["uv run pytest"]}),
        (
            "stages: [t]\ndefault:\n  before_script: [npm ci]\ntest:\n  script:\n    - npm test\n",
            {"setup": ["npm ci"], "verify": ["npm test"]},
        ),
    ],
)
def test_the_commands_of_ci_files_become_setup_and_verify(
    text: str, expected: dict[str, list[str]] | None
) -> None:
    suggested = suggested_environment([text])
    assert suggested is not None
    found = yaml.safe_load(suggested)
    read_file(suggested.encode())
    if expected is not None:
        assert found == expected
    else:
        assert list(found) == ["setup", "verify"]


@pytest.mark.parametrize(
    "text",
    [
        workflow("npm ci", "./deploy.sh"),
        workflow("npm test | tee log"),
        workflow("npm test && curl example.com"),
        workflow("pytest --junitxml=${{ matrix.python }}.xml"),
        workflow("pytest $ARGUMENTS"),
        workflow("npm test", **{"working-directory": "web"}),
        "a: [",
        "- 1",
        "jobs: {test: {steps: 3}}",
        "",
    ],
)
def test_what_needs_the_ci_or_is_no_check_suggests_nothing(text: str) -> None:
    assert suggested_environment([text]) is None


def test_no_more_commands_are_suggested_than_the_file_may_have() -> None:
    suggested = suggested_environment([workflow(*(f"go test ./p{number}" for number in range(20)))])
    assert suggested is not None
    assert len(yaml.safe_load(suggested)["verify"]) == MAX_VERIFY_COMMANDS
