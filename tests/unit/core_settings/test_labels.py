"""Names of labels are compared as the forge compares them, in one place."""

import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.runners import RunnerName

FAILED = {platform.value: {"failed_label": "Coding Agent failed"} for platform in Platform}


@pytest.mark.parametrize(
    ("label", "on_github"),
    [
        ("Coding Agent", "coding agent"),
        ("CODING AGENT PROCESSING", "coding agent processing"),
        ("Coding agent done", "coding agent done"),
        ("coding agent failed", "Coding Agent failed"),
        ("Coding Agent: Codex", "coding agent: codex"),
        ("coding agent", "coding agent"),
        ("Bug", "Bug"),
    ],
)
@pytest.mark.parametrize("platform", Platform)
def test_a_label_is_spelled_as_in_our_settings_where_the_forge_ignores_case(
    platform: Platform, label: str, on_github: str
) -> None:
    section = Settings.model_validate(FAILED).forge(platform)
    expected = on_github if platform is Platform.GITHUB else label
    assert section.spelled(label) == expected
    assert section.all_spelled([label, "Other"]) == {expected, "Other"}


@pytest.mark.parametrize(
    ("platform", "runner"),
    [(Platform.GITHUB, RunnerName.CODEX), (Platform.GITLAB, None), (Platform.GITEA, None)],
)
def test_the_runner_of_a_label_of_another_spelling(platform: Platform, runner: RunnerName | None) -> None:
    section = Settings().forge(platform)
    assert section.runner(section.all_spelled(["Coding Agent: Codex"])) is runner
