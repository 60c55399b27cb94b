"""What a token of a GitHub App may do, and what GitHub's refusals mean."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import ForgeError
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import (
    AppPlaces,
    AppProblem,
    app_problem,
    claims,
    covers,
    names_within,
    permissions_for,
)
from coding_agent_forges.github.settings import GitHub
from pydantic import ValidationError

NEEDED = {purpose: permissions_for(purpose, "acme/pricing") for purpose in Purpose}
ALL = {name: "write" for permissions in NEEDED.values() for name in permissions.required}
OUTSIDE = (
    "There is at least one repository that does not exist or is not accessible to the parent installation."
)
NOT_GRANTED = "The permissions requested are not granted to this installation."


def test_a_jwt_allows_for_a_clock_that_is_a_minute_fast() -> None:
    now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    assert claims(7, now) == {"iat": now.timestamp() - 60, "exp": now.timestamp() + 540, "iss": "7"}


@pytest.mark.parametrize(
    ("purpose", "granted", "missing", "narrowed"),
    [
        (
            Purpose.EVIDENCE,
            ALL,
            [],
            {"metadata": "read", "contents": "read", "issues": "read", "pull_requests": "read"},
        ),
        (
            Purpose.EVIDENCE,
            {"metadata": "read", "issues": "write"},
            ["Contents (read)", "Pull requests (read)"],
            None,
        ),
        (Purpose.POLL, ALL, [], {"metadata": "read", "issues": "read", "pull_requests": "read"}),
        (
            Purpose.ATTEMPT,
            {**ALL, "contents": "read", "pull_requests": "none"},
            ["Contents (write)", "Pull requests (write)"],
            None,
        ),
        (
            Purpose.ATTEMPT,
            {**ALL, "administration": "write", "workflows": "write", "actions": "read"},
            [],
            {
                "metadata": "read",
                "contents": "write",
                "issues": "write",
                "pull_requests": "write",
                "actions": "read",
                "checks": "read",
                "statuses": "read",
                "workflows": "write",
            },
        ),
    ],
)
def test_a_token_gets_what_its_purpose_needs(
    purpose: Purpose, granted: dict[str, str], missing: list[str], narrowed: dict[str, str] | None
) -> None:
    assert NEEDED[purpose].missing(granted) == missing
    if narrowed is not None:
        assert NEEDED[purpose].narrowed(granted) == narrowed


def test_only_an_attempt_may_push_and_a_token_for_all_repositories_only_reads() -> None:
    pushes = {
        purpose
        for purpose, permissions in NEEDED.items()
        if {**permissions.required, **permissions.optional}.get("contents") == "write"
    }
    assert pushes == {Purpose.ATTEMPT, Purpose.CONSUMER}
    for purpose in Purpose:
        everywhere = permissions_for(purpose, "")
        assert set(everywhere.required.values()) == {"read"}
        assert not everywhere.optional


@pytest.mark.parametrize(
    ("status", "message", "by_id", "problem"),
    [
        (401, "A JSON web token could not be decoded", False, AppProblem.KEY_REFUSED),
        (401, "'Issued at' claim ('iat') must be an Integer", False, AppProblem.CLOCK_WRONG),
        (401, "'Expiration time' claim ('exp') is too far in the future", False, AppProblem.CLOCK_WRONG),
        (401, "Integration not found", False, AppProblem.APP_UNKNOWN),
        (404, "Integration not found", True, AppProblem.APP_UNKNOWN),
        (404, "Not Found", False, AppProblem.NOT_INSTALLED),
        (404, "Not Found", True, AppProblem.INSTALLATION_UNKNOWN),
        (403, "This installation has been suspended", True, AppProblem.SUSPENDED),
        (403, "looking up acme/suspended: no", True, None),
        (422, OUTSIDE, False, AppProblem.REPOSITORY_OUTSIDE),
        (422, NOT_GRANTED, False, AppProblem.PERMISSION_MISSING),
        (422, "getting a token for acme/repository-permissions: Invalid", False, None),
        (500, "Server Error", False, None),
        (None, "cannot be reached", False, None),
    ],
)
def test_what_a_refusal_means(
    status: int | None, message: str, by_id: bool, problem: AppProblem | None
) -> None:
    assert app_problem(ForgeError(message, status=status), by_id=by_id) is problem


def test_each_sentence_names_a_setting_or_a_page() -> None:
    places = AppPlaces("github.com", "GitHub App 7", "acme/pricing", "/run/key.pem", "https://page/1")
    sentences = {problem: places.sentence(problem, missing="Checks (read)") for problem in AppProblem}
    assert len(set(sentences.values())) == len(AppProblem)
    for problem, sentence in sentences.items():
        assert "`github." in sentence or "https://" in sentence or problem is AppProblem.CLOCK_WRONG
    assert "Checks (read)" in sentences[AppProblem.PERMISSION_MISSING]
    behind = places.sentence(AppProblem.CLOCK_WRONG, seconds=-300.4)
    assert "wrong: it is 300 s behind. Correct the clock" in behind


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"app": {"app_id": 0, "private_key_file": "k"}}, "app_id"),
        ({"app": {"app_id": 7}}, "private_key_file"),
        ({"app": {"app_id": 7, "private_key_file": "k"}, "personal_access_token": "t"}, "remove one"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GitHub.model_validate(wrong)
    right = GitHub.model_validate({"app": {"app_id": 7, "private_key_file": "k"}})
    assert right.app is not None
    assert right.app.private_key_file == Path("k")


def test_the_documentation_lists_every_permission() -> None:
    page = (Path(__file__).parents[3] / "docs" / "github-app.md").read_text(encoding="utf-8")
    names = {name for one in NEEDED.values() for name in {**one.required, **one.optional}}
    shown = {"commit statuses" if name == "statuses" else name.replace("_", " ") for name in names}
    assert {name.lower() for name in re.findall(r"^\| \*\*([^*]+)\*\*", page, re.MULTILINE)} == shown


@pytest.mark.parametrize(
    ("scope", "repository", "covered"),
    [
        (["acme"], "acme/pricing", True),
        (["ACME"], "Acme/Pricing", True),
        (["acme/pricing"], "ACME/pricing", True),
        (["acme/pricing"], "acme/pricing-2", False),
        (["acme"], "acme-2/pricing", False),
        (["pricing"], "acme/pricing", False),
        ([], "acme/pricing", False),
    ],
)
def test_a_scope_covers_owners_and_repositories(scope: list[str], repository: str, covered: bool) -> None:
    assert covers(scope, repository) is covered


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (["acme"], None),
        (["Acme", "acme/pricing"], None),
        (["acme/pricing", "ACME/billing", "globex/x"], ["billing", "pricing"]),
        (["globex"], []),
        ([], []),
    ],
)
def test_a_token_for_all_is_narrowed_to_what_a_scope_names(scope: list[str], names: list[str] | None) -> None:
    assert names_within(scope, "acme") == names
