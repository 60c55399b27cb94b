"""Nothing of ours reads what version 2026-03-10 of GitHub's REST API no longer has.

The list is from GitHub's page *Breaking changes*. GraphQL has no versions; its answers have other models.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import coding_agent_forges.github
import pytest
from coding_agent_forges.rest.calls import ResponseModel
from pydantic import AliasChoices, AliasPath

REMOVED = {
    "assignee",
    "merge_commit_sha",
    "has_downloads",
    "use_squash_pr_title_as_default",
    "master_branch",
    "rate",
    "authorizations_url",
    "hub_url",
    "bundle",
    "cvss",
}


def models() -> list[type[ResponseModel]]:
    package = coding_agent_forges.github
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)

    def below(kind: type[ResponseModel]) -> Iterator[type[ResponseModel]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    return [one for one in below(ResponseModel) if one.__module__.startswith(package.__name__)]


def names(alias: str | AliasPath | AliasChoices) -> Iterator[str]:
    """The names of fields that an alias reads."""
    if isinstance(alias, AliasChoices):
        for choice in alias.choices:
            yield from names(choice)
    elif isinstance(alias, AliasPath):
        yield from (part for part in alias.path if isinstance(part, str))
    else:
        yield alias


def read(model: type[ResponseModel]) -> set[str]:
    return {
        name
        for field, info in model.model_fields.items()
        for name in names(info.validation_alias or info.alias or field)
    }


def test_no_answer_is_read_for_a_field_that_the_new_version_lacks() -> None:
    found = models()
    assert len(found) > 20
    assert {model.__name__: read(model) & REMOVED for model in found if read(model) & REMOVED} == {}


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("assignee", {"assignee"}),
        (AliasPath("base", "repo", "has_downloads"), {"base", "repo", "has_downloads"}),
        (AliasChoices("a", AliasPath("b", 0)), {"a", "b"}),
    ],
)
def test_each_kind_of_alias_is_seen(alias: str | AliasPath | AliasChoices, expected: set[str]) -> None:
    assert set(names(alias)) == expected
