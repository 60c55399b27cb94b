"""The profiles of `init`: facts in, values and sentences out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from kubectl_agenttask import UsageError
from kubectl_agenttask.chart_values import Gateway, chosen_gateway, deep_merged
from kubectl_agenttask.findings import Level
from kubectl_agenttask.profile import (
    FEATURES,
    ClusterStorage,
    Profile,
    ProfileFacts,
    StorageClass,
    choices,
    what_is_off,
)
from kubectl_agenttask.repositories import Progress, RepositorySuggestions, offer

PRICED = ProfileFacts(webhook=True, currency="USD", presets={"acme/web": ("npm",), "acme/docs": ()})
LOCAL = StorageClass("standard", "rancher.io/local-path", default=True)
SHARED = StorageClass("nfs", "nfs.csi.k8s.io")


def values_of(facts: ProfileFacts) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for choice in choices(Profile.TEAM, facts):
        values = deep_merged(values, choice.values)
    return values


def states_of(facts: ProfileFacts) -> dict[str, str]:
    return {choice.feature: choice.state for choice in choices(Profile.TEAM, facts)}


def test_the_minimal_profile_chooses_nothing() -> None:
    assert choices(Profile.MINIMAL, PRICED) == ()


def test_the_team_profile_uses_what_the_facts_allow() -> None:
    facts = replace(PRICED, storage=ClusterStorage(1, (LOCAL,)))
    assert values_of(facts) == {
        "config": {
            "rounds": {"enabled": True, "draft": True},
            "budgets": {
                "task": {"amount": "5.00", "currency": "USD"},
                "repository": {"amount": "50.00", "currency": "USD"},
            },
            "webhook": {"commands": {"enabled": True}},
        },
        "egress": {
            "enabled": True,
            "repositories": {"acme/web": ["registry.npmjs.org", "registry.yarnpkg.com"]},
        },
        "transcripts": {"persistence": {"enabled": True, "accessModes": ["ReadWriteOnce"]}},
    }
    assert set(states_of(facts).values()) == {"on"}
    for choice in choices(Profile.TEAM, facts):
        assert "Off: " in choice.line, "it says how to turn it off"
    config = values_of(facts)["config"]
    Settings.model_validate(config | {"queue": {"backend": "kubernetes"}})


@pytest.mark.parametrize(
    ("change", "feature", "expected"),
    [
        ({"currency": ""}, "budgets", {"task": {"tokens": 5_000_000}, "repository": {"tokens": 50_000_000}}),
        (
            {"earlier": {"config": {"queue": {"engine": "kueue"}}}},
            "budgets",
            {"task": {"amount": "5.00", "currency": "USD"}},
        ),
        (
            {"earlier": {"config": {"consumer": {"commits": {"sign": "github"}}}}},
            "rounds",
            {"enabled": True, "draft": True, "conflict_rounds": 0},
        ),
    ],
)
def test_a_setting_that_another_one_excludes_is_not_chosen(
    change: dict[str, Any], feature: str, expected: dict[str, Any]
) -> None:
    assert values_of(replace(PRICED, **change))["config"][feature] == expected


@pytest.mark.parametrize(
    ("earlier", "feature"),
    [
        ({"config": {"rounds": {"enabled": False}}}, "rounds"),
        ({"config": {"budgets": {}}}, "budget"),
        ({"egress": {"enabled": False}}, "egress proxy"),
        ({"egress": {"enabled": True, "repositories": {"acme/web": []}}}, "egress proxy"),
        ({"transcripts": {"persistence": {"enabled": False}}}, "transcripts"),
        ({"config": {"context_storage": {"s3": {"bucket": "b"}}}}, "transcripts"),
        ({"config": {"webhook": {"commands": {"enabled": False}}}}, "commands"),
    ],
)
def test_what_a_person_decided_is_kept(earlier: dict[str, Any], feature: str) -> None:
    facts = replace(PRICED, earlier=earlier, storage=ClusterStorage(1, (LOCAL,)))
    [choice] = [one for one in choices(Profile.TEAM, facts) if one.feature == feature]
    assert (choice.state, choice.values) == ("kept", {})


def test_a_second_run_adds_the_hosts_of_a_new_repository_and_changes_no_other() -> None:
    earlier = {"egress": {"enabled": True, "repositories": {"acme/web": ["mirror.example.com"]}}}
    facts = replace(PRICED, earlier=earlier, presets={"acme/web": ("npm",), "acme/api": ("go",)})
    assert values_of(facts)["egress"]["repositories"] == {
        "acme/api": ["proxy.golang.org", "sum.golang.org"],
    }


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (ClusterStorage(), None),
        (ClusterStorage(3, (LOCAL,)), None),
        (ClusterStorage(1, (replace(LOCAL, default=False),)), None),
        (ClusterStorage(1, (LOCAL,)), {"enabled": True, "accessModes": ["ReadWriteOnce"]}),
        (ClusterStorage(3, (LOCAL, SHARED)), {"enabled": True, "storageClassName": "nfs"}),
    ],
)
def test_transcripts_are_kept_where_every_node_can_write(
    storage: ClusterStorage, expected: dict[str, Any] | None
) -> None:
    found = values_of(replace(PRICED, storage=storage)).get("transcripts", {}).get("persistence")
    assert found == expected


def test_commands_need_a_webhook() -> None:
    assert states_of(replace(PRICED, webhook=False))["commands"] == "off"


def test_doctor_names_each_feature_that_is_off_and_why_it_matters() -> None:
    bare = what_is_off(Settings())
    assert {one.level for one in bare} == {Level.OFF}
    assert [one.about for one in bare] == list(FEATURES)
    for one in bare:
        assert ". On: " in one.text
    everything = {
        "queue": {"backend": "kubernetes"},
        "rounds": {"enabled": True},
        "budgets": {"task": {"tokens": 1}, "repository": {"tokens": 1}},
        "egress": {"proxy": "http://proxy:3128", "key": "k" * 32},
        "context_storage": {"base_dir": "/var/lib/transcripts"},
        "webhook": {"commands": {"enabled": True}},
    }
    assert what_is_off(Settings.model_validate(everything)) == []


PRIVATE = {"namespace": "infra", "name": "private"}
GATEWAYS = (Gateway("infra", "public"), Gateway("infra", "private"))


@pytest.mark.parametrize(
    ("flag", "earlier", "found", "expected"),
    [
        ("", {}, (), None),
        ("", {}, GATEWAYS[:1], GATEWAYS[0]),
        ("none", {}, GATEWAYS[:1], None),
        ("infra/private", {}, GATEWAYS, GATEWAYS[1]),
        ("", {"ingress": {"enabled": True}}, GATEWAYS[:1], None),
        (
            "",
            {"httpRoute": {"parentRefs": [{"namespace": "infra", "name": "private"}]}},
            GATEWAYS,
            GATEWAYS[1],
        ),
    ],
)
def test_webhooks_come_through_the_gateway_if_there_is_one(
    flag: str, earlier: dict[str, Any], found: tuple[Gateway, ...], expected: Gateway | None
) -> None:
    assert chosen_gateway(flag, "https://a.example/webhook/github", earlier, found) == expected
    assert chosen_gateway(flag, "", earlier, found) is None


@pytest.mark.parametrize(("flag", "sentence"), [("", "Choose one"), ("public", "write NAMESPACE/NAME")])
def test_a_person_chooses_among_several_gateways(flag: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        chosen_gateway(flag, "https://a.example", {}, GATEWAYS)


def test_a_few_suggestions_are_shown_and_many_are_files() -> None:
    one = RepositorySuggestions(environment="verify:\n- make test\n")
    shown, files = offer({"acme/web": one, "acme/docs": RepositorySuggestions()}, Path("s"))
    assert "# acme/web\nverify:\n- make test" in shown
    assert files == {}
    shown, files = offer({f"acme/r{number}": one for number in range(4)}, Path("s"))
    assert "4 files" in shown
    assert files[Path("s/acme/r3/.coding-agent.yaml")] == one.environment
    shown, _ = offer({"acme/web": RepositorySuggestions(problem="the forge is down")}, Path("s"))
    assert shown == "unknown  files        acme/web: the forge is down"


def test_the_lines_of_many_repositories_are_numbered() -> None:
    few, many = Progress(2), Progress(200)
    assert few.next("acme/web") == "acme/web"
    assert [many.next("acme/web"), many.next("acme/api")] == ["acme/web (1 of 200)", "acme/api (2 of 200)"]
