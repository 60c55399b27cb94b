"""The user-config service: access by key, settings from files, nothing outside its folder."""

from pathlib import Path

import httpx2
import pytest
from coding_agent_user_config.__main__ import ApiKey, user_config_app

KEY = "k3y"


async def get(directory: Path, path: str, key: str | None = KEY) -> httpx2.Response:
    headers = [(b"Authorization", f"Bearer {key}".encode())] if key is not None else []
    transport = httpx2.ASGITransport(user_config_app(directory, ApiKey(KEY)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get(path, headers=headers)


async def test_the_answer_has_the_form_that_the_agent_expects(tmp_path: Path) -> None:
    (tmp_path / "gitlab").mkdir()
    (tmp_path / "gitlab" / "alice.yaml").write_text("system_prompt: hello\n")
    answer = await get(tmp_path, "/config/gitlab/alice")
    assert answer.status_code == 200
    assert answer.json() == {"status": "success", "data": {"system_prompt": "hello"}}


@pytest.mark.parametrize(
    ("stored", "merged"),
    [
        ("model: m", {"base_url": "https://ours", "api_key": "ours", "model": "m"}),
        ("api_key: own", {"base_url": "https://ours", "api_key": "own"}),
        ("base_url: https://x", {"base_url": "https://x"}),
        ("{base_url: https://x, api_key: own}", {"base_url": "https://x", "api_key": "own"}),
    ],
)
async def test_the_key_of_the_default_goes_to_no_other_address(
    tmp_path: Path, stored: str, merged: dict[str, str]
) -> None:
    (tmp_path / "github").mkdir()
    (tmp_path / "default.yaml").write_text("llm: {openai: {base_url: 'https://ours', api_key: ours}}\n")
    (tmp_path / "github" / "alice.yaml").write_text(f"llm:\n  openai: {{{stored.strip('{}')}}}\n")
    answer = await get(tmp_path, "/config/github/alice")
    assert answer.json()["data"] == {"llm": {"openai": merged}}


async def test_requests_without_the_key_are_refused(tmp_path: Path) -> None:
    for key in (None, "", "wrong", "ключ"):
        assert (await get(tmp_path, "/config/github/alice", key)).status_code == 401
    assert (await get(tmp_path, "/health", None)).json() == {"status": "healthy"}
    absent = await get(tmp_path / "absent", "/health", None)
    assert absent.status_code == 503
    assert "absent" in absent.json()["message"]


async def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path.parent / "secret.yaml").write_text("a: 1\n")
    for path in ("/config/github/..%2F..%2Fsecret", "/config/github/.hidden", "/config/svn/alice"):
        assert (await get(tmp_path, path)).status_code == 404


async def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "github").mkdir()
    for text in ("- a\n", "a: [\n", "just text\n"):
        (tmp_path / "github" / "alice.yaml").write_text(text)
        answer = await get(tmp_path, "/config/github/alice")
        assert answer.status_code == 500
        assert "github/alice.yaml" in answer.json()["message"]


def test_a_service_without_a_key_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="USER_CONFIG_API_KEY"):
        user_config_app(tmp_path, ApiKey(" "))


@pytest.mark.parametrize(
    ("value", "lines", "good", "bad"),
    [
        ("k3y", None, ["k3y"], ["", "k3"]),
        ("", "k3y\n", ["k3y"], ["", "k3y\n", "k3"]),
        ("old", " k3y \n\n", ["old", "k3y"], ["", " k3y ", "ol"]),
    ],
    ids=["in place", "a file", "both while it is rotated"],
)
def test_which_keys_are_accepted(
    tmp_path: Path, value: str, lines: str | None, good: list[str], bad: list[str]
) -> None:
    file = tmp_path / "key"
    if lines is not None:
        file.write_text(lines)
    key = ApiKey(value, file if lines is not None else None)
    assert all(key.accepts(f"Bearer {entry}") for entry in good)
    assert not any(key.accepts(f"Bearer {found}") for found in bad)
    assert not key.accepts(None)
    assert "k3y" not in repr(key)
