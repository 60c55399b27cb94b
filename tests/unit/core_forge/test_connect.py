"""Clients from settings: which token, which host, and what is said when there is none."""

from pathlib import Path

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.connect import connect_all, connect_forge, forge_of
from coding_agent_core.registry import Platform
from coding_agent_core.settings.model import Settings

from tests.unit.core_forge.wire import ITEMS, SETTINGS, Wire, answer


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        (Platform.GITHUB, ("github.personal_access_token", "GITHUB_PERSONAL_ACCESS_TOKEN")),
        (Platform.GITLAB, ("gitlab.personal_access_token", "GITLAB_PERSONAL_ACCESS_TOKEN")),
    ],
)
def test_no_token_names_the_setting_and_the_variable(platform: Platform, names: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        connect_forge(Settings(), platform)
    assert all(name in str(caught.value) for name in names)
    with pytest.raises(SettingsError) as caught:
        connect_all(Settings())
    assert all(name in str(caught.value) for name in names)


async def test_a_token_that_is_not_mounted_here_does_not_stop_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate(
        {"github": {"personal_access_token": {"files": [tmp_path / "none"]}}, "gitlab": SETTINGS.gitlab}
    )
    assert list(connect_all(settings)) == ["gitlab.com"]
    assert "No token for GitHub" in caplog.text


def test_an_items_forge_is_found_by_its_host() -> None:
    forges = connect_all(SETTINGS)
    item = ITEMS[Platform.GITHUB]
    assert forge_of(forges, item) is forges["github.com"]
    assert forge_of(forges, item.model_copy(update={"host": "GitHub.com"})) is forges["github.com"]
    for host in ("github.example.com", "gitlab.com"):
        with pytest.raises(SettingsError, match=r"github\.api_url"):
            forge_of(forges, item.model_copy(update={"host": host}))


def test_two_platforms_on_one_host_are_refused() -> None:
    settings = Settings.model_validate(
        {
            "github": {"api_url": "https://x.example/api/v3", "personal_access_token": "t"},
            "gitlab": {"api_url": "https://x.example/api/v4", "personal_access_token": "t"},
        }
    )
    with pytest.raises(SettingsError, match=r"x\.example"):
        connect_all(settings)


@pytest.mark.parametrize("platform", list(Platform))
async def test_a_rotated_token_is_used_at_once_and_its_owner_asked_again(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    settings = Settings.model_validate({platform: {"personal_access_token": {"files": [file]}}})
    wire = Wire(
        [
            answer(200, {"id": 1, "login": "bot", "username": "bot"}),
            answer(200, {"id": 2, "login": "new", "username": "new"}),
        ]
    )
    forge = wire.forge(platform, settings)
    assert [await forge.whoami(), await forge.whoami()] == ["bot", "bot"]
    file.write_text("second-token\n")
    assert await forge.whoami() == "new"
    assert [request.headers["authorization"] for request in wire.requests] == [
        "Bearer first",
        "Bearer second-token",
    ]
    assert (await forge.clone_source("acme/pricing")).token == "second-token"
