"""Which credentials an attempt is given."""

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.job_settings import Credential
from coding_agent_core.task.model import Item
from coding_agent_operator.jobs.pod_spec import credentials_for

GITHUB = Item(
    platform=Platform.GITHUB, host="github.com", repository="Acme/Pricing", kind=ItemKind.ISSUE, number=1
)
GITLAB = Item(
    platform=Platform.GITLAB,
    host="gitlab.example.com",
    repository="group/sub/pricing",
    kind=ItemKind.ISSUE,
    number=1,
    project_id=4,
)


def credential(secret: str, file: str = "token", **scope: object) -> Credential:
    return Credential.model_validate({"secret": secret, "key": "token", "file": file, **scope})


EVERYBODY = credential("everybody")
OF_GITHUB = credential("of-github", platform=Platform.GITHUB)
OF_GITLAB = credential("of-gitlab", platform=Platform.GITLAB)
OF_HOST = credential("of-host", host="GitHub.com")
OF_GITLAB_HOST = credential("of-gitlab-host", host="gitlab.example.com", platform=Platform.GITLAB)
OF_REPOSITORY = credential("of-repository", repository="acme/pricing")
OF_REPOSITORY_HERE = credential("of-repository-here", host="github.com", repository="acme/pricing")
OF_REPOSITORY_ELSEWHERE = credential("elsewhere", host="ghe.example.com", repository="acme/pricing")
OF_SUBGROUP = credential("of-subgroup", repository="group/sub/pricing")
MODEL = credential("model", file="openai-api-key")


@pytest.mark.parametrize(
    ("configured", "item", "given"),
    [
        ([], GITHUB, []),
        ([EVERYBODY], GITHUB, ["everybody"]),
        ([OF_GITHUB, OF_GITLAB], GITHUB, ["of-github"]),
        ([OF_GITHUB, OF_GITLAB], GITLAB, ["of-gitlab"]),
        ([OF_GITLAB, OF_GITLAB_HOST], GITHUB, []),
        ([OF_GITHUB, EVERYBODY], GITHUB, ["of-github"]),
        ([OF_GITHUB, EVERYBODY], GITLAB, ["everybody"]),
        ([OF_HOST, OF_GITHUB], GITHUB, ["of-host"]),
        ([OF_GITLAB_HOST, OF_GITLAB], GITLAB, ["of-gitlab-host"]),
        ([OF_REPOSITORY, OF_HOST, OF_GITHUB], GITHUB, ["of-repository"]),
        ([OF_REPOSITORY_HERE, OF_REPOSITORY], GITHUB, ["of-repository-here"]),
        ([OF_REPOSITORY_ELSEWHERE, EVERYBODY], GITHUB, ["everybody"]),
        ([OF_SUBGROUP, OF_REPOSITORY, OF_GITLAB], GITLAB, ["of-subgroup"]),
        ([EVERYBODY, MODEL], GITHUB, ["model", "everybody"]),
        ([MODEL, OF_GITLAB], GITHUB, ["model"]),
    ],
)
def test_the_most_specific_credential_wins(
    configured: list[Credential], item: Item, given: list[str]
) -> None:
    assert [entry.secret for entry in credentials_for(configured, item)] == given
    assert [found.secret for found in credentials_for(reversed(configured), item)] == given, (
        "whatever the order"
    )
