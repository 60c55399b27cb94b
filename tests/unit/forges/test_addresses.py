"""Where things are: URLs, paths and queries, by tables."""

import pytest
from coding_agent_core.platforms.facts import ItemKind, web_base
from coding_agent_forges.github.client import search_query
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.gitlab.client import list_params, list_paths
from coding_agent_forges.gitlab.settings import GitLab
from coding_agent_forges.rest.calls import path

ANY = (
    '"coding agent","coding agent: builtin","coding agent: claude-code","coding agent: codex",'
    '"coding agent: command","coding agent: gemini","coding agent: opencode"'
)


@pytest.mark.parametrize(
    ("api_url", "base"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://github.example.com/api/v3", "https://github.example.com"),
        ("https://api.tenant.ghe.com", "https://tenant.ghe.com"),
        ("https://gitlab.com/api/v4", "https://gitlab.com"),
        ("http://127.0.0.1:8123/api/v3", "http://127.0.0.1:8123"),
        ("https://user:password@gitlab.example.com/api/v4", "https://gitlab.example.com"),
    ],
)
def test_web_base(api_url: str, base: str) -> None:
    assert web_base(api_url) == base


@pytest.mark.parametrize(
    ("api_url", "version"),
    [
        ("https://api.github.com", "2026-03-10"),
        ("https://api.tenant.ghe.com", "2026-03-10"),
        # GitHub Enterprise Server refuses a version that it does not have, and has the new one since 3.21.
        ("https://github.example.com/api/v3", "2022-11-28"),
        ("https://github.com.example.com/api/v3", "2022-11-28"),
        ("https://notghe.com/api/v3", "2022-11-28"),
    ],
)
def test_a_request_names_a_version_that_its_server_has(api_url: str, version: str) -> None:
    assert GitHub(api_url=api_url).headers["X-GitHub-Api-Version"] == version


@pytest.mark.parametrize(
    ("label", "encoded"),
    [("coding agent", "coding%20agent"), ("a?b#c%20", "a%3Fb%23c%2520"), ("..", "%2E%2E"), (".", "%2E")],
)
def test_a_label_stays_one_segment(label: str, encoded: str) -> None:
    assert path("labels", label) == f"/labels/{encoded}"


@pytest.mark.parametrize(
    ("settings", "kind", "query"),
    [
        (GitHub(), ItemKind.ISSUE, f"label:{ANY} is:issue state:open archived:false sort:created-asc"),
        (
            GitHub(query="state:open sort:updated-desc"),
            ItemKind.ISSUE,
            f"label:{ANY} is:issue state:open sort:created-asc",
        ),
        (
            GitHub(owner="acme", assignee="bot", query=""),
            ItemKind.CHANGE,
            f"label:{ANY} is:pull-request user:acme assignee:bot state:open sort:created-asc",
        ),
        (
            GitHub(query="-label:wip is:open"),
            ItemKind.ISSUE,
            f"label:{ANY} is:issue -label:wip is:open sort:created-asc",
        ),
    ],
)
def test_search_query(settings: GitHub, kind: ItemKind, query: str) -> None:
    assert search_query(kind, settings, settings.triggers) == query


def test_quotes_in_a_label_cannot_end_the_qualifier() -> None:
    labels = GitHub(query="state:open", bot_label='a" repo:evil/x \\')
    query = search_query(ItemKind.ISSUE, labels, labels.triggers)
    assert query.startswith(r'label:"a\" repo:evil/x \\","a\" repo:evil/x \\: builtin",')


@pytest.mark.parametrize(
    ("settings", "kind", "where"),
    [
        (GitLab(project_id=7, group_id=8), ItemKind.ISSUE, ["/projects/7/issues"]),
        (
            GitLab(project_id=(7, "group/other")),
            ItemKind.CHANGE,
            ["/projects/7/merge_requests", "/projects/group%2Fother/merge_requests"],
        ),
        (GitLab(group_id="group"), ItemKind.CHANGE, ["/groups/group/merge_requests"]),
        (GitLab(), ItemKind.CHANGE, ["/merge_requests"]),
    ],
)
def test_list_paths(settings: GitLab, kind: ItemKind, where: list[str]) -> None:
    assert list_paths(kind, settings) == where


def test_list_params_ask_for_what_everybody_wrote() -> None:
    params = list_params("coding agent", GitLab(assignee="bot", query="slow"))
    wanted = {"labels": "coding agent", "state": "opened", "scope": "all", "assignee_username": "bot"}
    assert wanted.items() <= params.items()
    assert params["search"] == "slow"
    assert {"assignee_username", "search"}.isdisjoint(list_params("x", GitLab()))
