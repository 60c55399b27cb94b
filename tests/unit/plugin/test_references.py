"""Names of tasks and other values, as a person may write them on the command line."""

from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.task.agenttask import AgentTask
from kubectl_agenttask import NotFoundError, UsageError
from kubectl_agenttask.argument_types import duration, reason, similar
from kubectl_agenttask.references import Reference

GITHUB = {"platform": "github", "host": "github.com", "repository": "Octo/Demo", "kind": "issue", "number": 7}
GITLAB = {"platform": "gitlab", "host": "gitlab.com", "repository": "group/sub/project", "projectID": 42}
GITEA = GITHUB | {"platform": "gitea", "host": "git.example.com"}


def task(name: str, source: dict[str, Any], run: int = 1, created: int = 1) -> AgentTask:
    at = f"2026-11-25T12:00:{created:02}Z"
    body = {
        "metadata": {"name": name, "uid": name, "namespace": "team", "creationTimestamp": at},
        "spec": {"source": source, "run": run},
    }
    return AgentTask.of(body)


TASKS = [
    task("issue", GITHUB),
    task("merge-request", GITLAB | {"kind": "change", "number": 3}),
    task("same-number", GITLAB | {"kind": "issue", "number": 3}),
    task("own-gitea", GITEA | {"repository": "team/app", "kind": "change", "number": 9}),
    task("other-host", GITEA | {"host": "ghe.example.com", "platform": "github", "repository": "team/app"}),
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("issue", ["issue"]),
        ("agenttask.coding-agent.dev/issue", ["issue"]),
        ("agenttasks.v1alpha1.coding-agent.dev/issue", ["issue"]),
        ("agt/issue", ["issue"]),
        (" octo/demo#7 ", ["issue"]),
        ("octo/demo#70", []),
        ("group/sub/project!3", ["merge-request"]),
        ("group/sub/project#3", ["same-number"]),
        ("https://github.com/octo/demo/issues/7", ["issue"]),
        ("https://www.github.com/octo/demo/issues/7#issuecomment-1", ["issue"]),
        ("https://github.com/octo/demo/pull/7", ["issue"]),
        ("https://gitlab.com/group/sub/project/-/merge_requests/3", ["merge-request"]),
        ("https://gitlab.example.com/group/sub/project/-/merge_requests/3", []),
        ("https://git.example.com/team/app/pulls/9", ["own-gitea"]),
        ("https://ghe.example.com/team/app/issues/7", ["other-host"]),
    ],
)
def test_a_task_or_an_item(text: str, names: list[str]) -> None:
    reference = Reference.parse(text)
    assert [one.name for one in TASKS if reference.matches(one)] == names


@pytest.mark.parametrize(
    "text", ["", "#7", "octo/demo", "octo#7", "octo/demo#0", "octo/demo#", "a b", "Upper", "../x", "-x"]
)
def test_anything_else_says_what_can_be_given(text: str) -> None:
    with pytest.raises(UsageError, match=r"owner/repo#12, group/project!3"):
        Reference.parse(text)


def test_a_web_address_of_no_item_is_refused() -> None:
    with pytest.raises(UsageError, match="is not the address of an issue"):
        Reference.parse("https://github.com/octo/demo")


def test_of_an_item_the_newest_run_is_meant() -> None:
    runs = [task("first", GITHUB, 1, 1), task("third", GITHUB, 3, 9), task("second", GITHUB, 2, 5)]
    assert Reference.parse("octo/demo#7").newest(runs).name == "third"


def test_one_number_of_two_forges_lists_the_tasks() -> None:
    both = [task("here", GITHUB), task("there", GITEA)]
    with pytest.raises(
        NotFoundError, match=r"names several items.*\n  here  github.com\n  there  git.example"
    ):
        Reference.parse("octo/demo#7").newest(both)
    one = Reference.parse("https://git.example.com/octo/demo/issues/7")
    assert one.newest([task for task in both if one.matches(task)]).name == "there"


def test_a_project_of_gitlab_is_one_item_with_and_without_its_number() -> None:
    by_hand = {key: value for key, value in GITLAB.items() if key != "projectID"}
    same = [
        task("label", GITLAB | {"kind": "issue", "number": 3}),
        task("hand", by_hand | {"kind": "issue", "number": 3}, 1, 2),
    ]
    assert Reference.parse("group/sub/project#3").newest(same).name == "hand"


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("6h", timedelta(hours=6)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta(0)),
        ("6", None),
        ("6 h", None),
        ("-6h", None),
        ("1.5h", None),
        ("h", None),
        ("", None),
        ("6w", None),
        ("99999d", None),
    ],
)
def test_lengths_of_time(text: str, length: timedelta | None) -> None:
    if length is None:
        with pytest.raises(ArgumentTypeError, match=r"write for example 30m|is longer than 3650d"):
            duration(text)
    else:
        assert duration(text) == length


def test_a_reason_in_any_letter_case_or_the_closest() -> None:
    assert reason("modelunavailable") == "ModelUnavailable"
    with pytest.raises(ArgumentTypeError, match="did you mean ModelUnavailable"):
        reason("ModelUnavailble")
    with pytest.raises(ArgumentTypeError, match=r"docs/troubleshooting\.md lists the reasons"):
        reason("qqq")


def test_similar_names() -> None:
    names = ["pricing-issue-12-3c44bfc29b3ce2ba", "pricing-issue-7-71e6d68148d0f22f", "shop-issue-1-aa"]
    assert similar("pricing-issue-12-3c44bfc29b3ce2bb", names)[0] == names[0]
    assert similar("issue-12", names)[0] == names[0]
    assert similar("zzz", names) == []
