"""The identities of attempts, and what the operator and the proxy make of them."""

from io import StringIO
from pathlib import Path

import pytest
from coding_agent_core.egress import Role, is_valid, job_of, password, profile_of, user_name, variables
from coding_agent_core.settings.model import Settings
from coding_agent_egress.identify import answer_lines
from pydantic import ValidationError


def test_the_variables_of_a_container() -> None:
    found = variables("[fd00::1]:3128", "web-1.agent", "key")
    url = f"http://web-1.agent:{password('web-1.agent', 'key')}@[fd00::1]:3128"
    assert found == {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
        "NODE_USE_ENV_PROXY": "1",
    }


def test_the_helper_answers_each_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("an old key\nkey")
    good = password("web-1.agent", "an old key")
    answers = StringIO()
    answer_lines(
        keys,
        StringIO(
            f"web%2D1.agent {good}\nweb-2.agent {good}\nweb-1.agent\n\nroot {password('root', 'key')}\n"
        ),
        answers,
    )
    assert answers.getvalue().split() == ["OK", "ERR", "ERR", "ERR", "ERR"]


def test_a_name_says_attempt_container_and_profile() -> None:
    profile = profile_of("Owner/Repo")
    assert profile == profile_of("owner/repo")
    for name, job in {
        user_name("web-12-ab12-1", Role.AGENT): "web-12-ab12-1",
        user_name("web-12-ab12-1", Role.WORKSPACE, profile): "web-12-ab12-1",
        "my.agent-1.workspace": "my.agent-1",
        **dict.fromkeys(("web-1", ".agent", "-", "web-1.other")),
    }.items():
        assert job_of(name) == job


def test_a_password_is_for_one_user_and_key() -> None:
    given = password("web-1.agent", "key")
    assert is_valid("web-1.agent", given, ["other", "key"])
    assert not is_valid("web-1.agent", given, ["other"])
    assert not is_valid("web-1.workspace", given, ["key"])
    assert not is_valid("web-1.agent", "é", ["key"])
    assert not is_valid("web-1.agent", "", [])


def test_hosts_of_the_list() -> None:
    for good in ("a.example.com", "*.Example.com", "a.example.com:8443", "localhost", "x_y.test"):
        assert Settings.model_validate({"egress": {"allow": [good]}}).egress.allow == (good.lower(),)
    for wrong in (
        *("https://a.test", "a.test/path", "*", "*.", "a*.test", "a.*.test", "a..test", "a.test:0", ""),
        *("a.test:70000", "10.0.0.1", "1.2.3.4:80", "0x7f.1", "::1", "a b", "a.test\nhttp_access allow all"),
    ):
        with pytest.raises(ValidationError, match=r"is not a host|is an address"):
            Settings.model_validate({"egress": {"private": [wrong]}})


def test_the_profile_of_a_repository() -> None:
    egress = Settings.model_validate(
        {"egress": {"repositories": {"O/R": ["a.test"], "forge.example.com/o/s": ["b.test"]}}}
    ).egress
    assert egress.profile("any.example.com", "o/R") == profile_of("o/r")
    assert egress.profile("Forge.example.com", "o/s") == profile_of("forge.example.com/o/s")
    assert egress.profile("other.example.com", "o/s") is None
