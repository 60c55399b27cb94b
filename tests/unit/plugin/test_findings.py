"""What `doctor` and `init` say of what they found."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.forge.changes import Actor, ChangeEvent, ChangeEventKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import VERSION
from coding_agent_forges.rest.setup import DeliveryResponse, RepositoryWebhook, TokenFacts, TokenRights
from kubectl_agenttask.destinations import Destination, ServicePods
from kubectl_agenttask.findings import (
    Finding,
    Level,
    SchemaVerdict,
    clock_findings,
    definition_findings,
    egress_finding,
    label_findings,
    pods_reachable,
    program_findings,
    reachable,
    schema_findings,
    token_findings,
    webhook_findings,
    without_defaults,
)

from tests.unit.core_rounds.making import ANNA, OURS, REVIEW_BOT, change, event, remark, sha

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
CRD = Path(__file__).parents[3] / "crds" / "agenttask.yaml"
ANYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
TLS = {"port": 443, "protocol": "TCP"}
HOOK = RepositoryWebhook(1, "https://agent.example.com/webhook/github", active=True)


def one(found: list[Finding]) -> tuple[Level, str]:
    [finding] = found
    return finding.level, finding.text


def test_a_line_has_the_level_the_subject_and_the_sentence() -> None:
    line = Finding(Level.WRONG, "token", "it is wrong: change it").line
    assert line.split(maxsplit=2) == ["wrong", "token", "it is wrong: change it"]


@pytest.mark.parametrize(
    ("rights", "level", "words"),
    [
        (TokenRights(), Level.OK, "accepts the token of bot (no expiry date is shown)"),
        (TokenRights(frozenset({"repo"}), (), NOW + timedelta(days=15)), Level.OK, "expires on 2026-12-15"),
        (TokenRights(frozenset(), (), NOW + timedelta(days=14)), Level.WARNING, "expires on 2026-12-14"),
        (TokenRights(frozenset({"gist"}), ("repo",)), Level.WRONG, "lacks the scope repo (it has: gist)"),
        (TokenRights(frozenset(), ("repo",)), Level.WRONG, "(it has: none)"),
    ],
)
def test_a_tokens_scopes_and_its_end(rights: TokenRights, level: Level, words: str) -> None:
    said = one(token_findings(TokenFacts("bot", None, rights), "github.com", "the Secret `x`", NOW))
    assert said[0] is level
    assert words in said[1]
    assert (level is Level.OK) != ("set the Secret `x`" in said[1])


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        (30, Level.OK, "differ by 30 s"),
        (31, Level.WRONG, "31 s ahead of github.com"),
        (-31, Level.WRONG, "31 s behind github.com"),
    ],
)
def test_a_wrong_clock_is_said_with_its_side(ahead: float, level: Level, words: str) -> None:
    said = one(clock_findings("github.com", NOW, NOW + timedelta(seconds=ahead)))
    assert said[0] is level
    assert words in said[1]


@pytest.mark.parametrize(
    ("hook", "statuses", "level", "words"),
    [
        (None, [], Level.WRONG, "has no webhook to https://agent"),
        (RepositoryWebhook(1, HOOK.url, active=False), [], Level.WRONG, "is turned off"),
        (HOOK, [], Level.OK, "no delivery is shown"),
        (HOOK, [200, 401], Level.OK, "the last delivery got 200"),
        (HOOK, [401, 200], Level.WRONG, "enter the one in the Secret webhook-secret"),
        (HOOK, [403], Level.WRONG, "webhook.allowed_networks"),
        (HOOK, [0], Level.WRONG, "got no answer: the forge cannot reach the receiver"),
        (HOOK, [504], Level.WRONG, "the forge cannot reach the receiver"),
        (HOOK, [500], Level.WRONG, "read the log of the receiver"),
    ],
)
def test_the_last_delivery_of_a_webhook(
    hook: RepositoryWebhook | None, statuses: list[int], level: Level, words: str
) -> None:
    answers = [DeliveryResponse("issues", status) for status in statuses]
    said = one(webhook_findings("acme/a", hook, answers, url=HOOK.url, secret="webhook-secret"))
    assert said[0] is level
    assert words in said[1]


def test_a_crd_of_another_release_is_said_with_what_it_lacks() -> None:
    crd: dict[str, Any] = yaml.safe_load(CRD.read_text())
    assert one(definition_findings(crd, VERSION))[0] is Level.OK
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = schema.pop("x-kubernetes-validations")
    level, text = one(definition_findings(crd, VERSION))
    assert level is Level.WARNING
    assert "the rules of another release than this plugin: spec lacks the rule" in text
    schema["x-kubernetes-validations"] = rules
    del schema["properties"]["budget"], schema["properties"]["runner"]
    level, text = one(definition_findings(crd, VERSION))
    assert level is Level.WRONG
    assert "2 fields are missing (spec.runner, spec.budget). The API server drops or refuses" in text
    crd["spec"]["versions"][0]["served"] = False
    assert "does not serve v1alpha1" in one(definition_findings(crd, VERSION))[1]


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (SchemaVerdict("a/b", ended=False), Level.OK, "takes all 1 AgentTasks"),
        (
            SchemaVerdict("a/b", ended=False, refused="spec.run: no"),
            Level.WRONG,
            "a/b does not fit this schema",
        ),
        (SchemaVerdict("a/b", ended=True, refused="spec.run: no"), Level.WRONG, "(spec.run: no): delete it"),
        (
            SchemaVerdict("a/b", ended=False, lost=("spec.title",)),
            Level.WRONG,
            "a/b would go on without spec.title",
        ),
        (
            SchemaVerdict("a/b", ended=True, lost=("spec.title",)),
            Level.WARNING,
            "1 of 1 would lose spec.title",
        ),
        (
            SchemaVerdict(
                "a/b", ended=False, lost=("status.attempts[1].denied", "status.attempts[0].denied")
            ),
            Level.WARNING,
            "1 of 1 would lose status.attempts[].denied,",
        ),
    ],
)
def test_only_a_task_that_works_otherwise_under_another_schema_is_wrong(
    answer: SchemaVerdict, level: Level, words: str
) -> None:
    first = next(iter(schema_findings([answer])))
    assert first.level is level
    assert words in first.text


def test_a_field_with_its_default_is_no_loss() -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    attempts = [{"counted": True, "message": "x"}, {"counted": False}]
    body = {"spec": {"title": "", "model": "m"}, "status": {"attempts": attempts}}
    paths = ["spec.title", "spec.model", "status.attempts[0].counted", "status.attempts[1].counted"]
    assert without_defaults(paths, body, schema) == ("spec.model", "status.attempts[1].counted")


@pytest.mark.parametrize(
    ("rules", "address", "port", "may"),
    [
        ([], "140.82.112.3", 443, False),
        ([{"to": [ANYWHERE], "ports": [TLS]}], "140.82.112.3", 443, True),
        ([{"to": [ANYWHERE], "ports": [TLS]}], "140.82.112.3", 8443, False),
        ([{"to": [ANYWHERE], "ports": [TLS]}], "10.1.2.3", 443, False),
        ([{"to": [ANYWHERE], "ports": [{**TLS, "endPort": 9000}]}], "140.82.112.3", 8443, True),
        ([{"to": [ANYWHERE], "ports": [{"port": 443, "protocol": "UDP"}]}], "140.82.112.3", 443, False),
        ([{"to": [ANYWHERE], "ports": [{"port": "proxy"}]}], "140.82.112.3", 443, False),
        ([{"to": [{"podSelector": {}}], "ports": [TLS]}], "140.82.112.3", 443, False),
        ([{"to": [ANYWHERE]}], "2606:50c0::1", 443, False),
        ([{}], "10.1.2.3", 1, True),
    ],
)
def test_a_network_policy_lets_a_pod_connect_or_not(
    rules: list[dict[str, Any]], address: str, port: int, may: bool
) -> None:
    assert reachable(rules, address, port) is may


PODS = ServicePods("models", {"app": "vllm", "tier": "model"}, (8000, 8001))
ITS_PORTS = [{"port": 8000, "endPort": 8001, "protocol": "TCP"}]
MODELS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}}


@pytest.mark.parametrize(
    ("rules", "may"),
    [
        ([{**PODS.values(), "ports": ITS_PORTS}], True),
        ([{"to": [MODELS], "ports": ITS_PORTS}], True),
        ([{"to": [MODELS], "ports": [{"port": 8000}]}], False),
        (
            [{"to": [{**MODELS, "podSelector": {"matchLabels": {"app": "ollama"}}}], "ports": ITS_PORTS}],
            False,
        ),
        ([{"to": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}], "ports": ITS_PORTS}], False),
        ([{"to": [ANYWHERE], "ports": ITS_PORTS}], False),
        ([{}], True),
        ([], False),
    ],
)
def test_a_network_policy_names_the_pods_of_a_service_or_not(rules: list[dict[str, Any]], may: bool) -> None:
    assert pods_reachable(rules, PODS) is may


OUTSIDE = Destination("https://api.openai.com/v1", "8.8.8.8")
IN_CLUSTER = Destination("http://vllm.models.svc:80", "10.96.7.7", PODS)


@pytest.mark.parametrize(
    ("at", "rules", "level", "words"),
    [
        (OUTSIDE, [{"to": [ANYWHERE], "ports": [TLS]}], Level.OK, "reach api.openai.com:443"),
        (OUTSIDE, [], Level.WRONG, "add them to networkPolicy.model.cidrs"),
        (Destination("http://vllm.invalid"), [{}], Level.UNKNOWN, "does not know the address"),
        (IN_CLUSTER, [{**PODS.values(), "ports": ITS_PORTS}], Level.OK, "the pods behind vllm.models.svc"),
        (IN_CLUSTER, [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], Level.OK, "vllm.models.svc:8000"),
        (IN_CLUSTER, [{"to": [ANYWHERE]}], Level.WRONG, "set networkPolicy.model.to"),
    ],
)
def test_the_rules_for_attempts_are_compared_with_a_destination(
    at: Destination, rules: list[dict[str, Any]], level: Level, words: str
) -> None:
    found = egress_finding("model", at, rules)
    assert found.level is level
    assert words in found.text


@pytest.mark.parametrize(
    ("platform", "there", "level", "words"),
    [
        (Platform.GITLAB, ["bug", "coding agent"], Level.OK, "has the label 'coding agent'"),
        (Platform.GITHUB, ["Coding Agent"], Level.OK, "has the label 'coding agent'"),
        (
            Platform.GITLAB,
            ["Coding Agent"],
            Level.WRONG,
            "label 'Coding Agent', but only 'coding agent'",
        ),
        (Platform.GITEA, ["CODING AGENT"], Level.WRONG, "set config.x.bot_label to its name"),
        (Platform.GITHUB, ["coding-agent"], Level.WRONG, "rename the label"),
        (Platform.GITHUB, ["CodingAgent", "coding_agent"], Level.WRONG, "'CodingAgent', 'coding_agent'"),
        (Platform.GITEA, ["coding agent", "Coding Agent"], Level.WARNING, "'Coding Agent' beside"),
        (Platform.GITHUB, ["coding agent", "coding agent: codex", "coding agent done"], Level.OK, "has"),
        (Platform.GITHUB, ["bug"], Level.WARNING, "has no label 'coding agent'"),
        (Platform.GITHUB, [], Level.WARNING, "kubectl agenttask init does"),
    ],
)
def test_labels_that_look_like_the_one_that_asks_for_work(
    platform: Platform, there: list[str], level: Level, words: str
) -> None:
    """A label of another name brings silence: nothing tells the person who applied it."""
    settings = Settings().forge(platform)
    found = label_findings("acme/pricing", settings.all_spelled(there), settings, "config.x.bot_label")
    assert one(found)[0] is level
    assert words in one(found)[1]


def test_an_account_that_pushes_right_after_us_seems_to_be_a_program() -> None:
    def pushed(by: Actor, second: float) -> ChangeEvent:
        return event(ChangeEventKind.PUSHED, by, second, commit=sha(f"{by.login} {second}"))

    formatter, hasty = Actor("9", "Formatter"), Actor("10", "hasty")
    events = [pushed(OURS, second) for second in (100, 1_000, 5_000)]
    events += [pushed(formatter, second) for second in (110, 1_005)]
    events += [pushed(ANNA, second) for second in (90, 300, 2_000)]
    events += [pushed(hasty, 5_010), pushed(REVIEW_BOT, 101), pushed(REVIEW_BOT, 1_001)]
    after_a_comment = change(events=(pushed(formatter, 7_020),), comments=(remark(1, OURS, "Done.", 7_000),))
    changes = (change(events=tuple(events)), after_a_comment)
    [finding] = program_findings(changes, ())
    assert finding.level is Level.WARNING
    assert finding.text.startswith("Formatter pushed 3 times within 60 s after us.")
    assert program_findings(changes, ("formatter",)) == []
