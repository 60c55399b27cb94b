"""Wrong values are refused and the key named; right ones make a config.yaml that the programs take."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Backend

from tests.chart.helm import CHART, VALUES_FILES, HelmError, helm, objects_of, one, render, render_text

# Time for the tools, which may have to be built first. One worker renders, and remembers, what several need.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]

REQUIRED = CHART / "ci" / "required-values.yaml"
FILE = yaml.safe_load((CHART / "files" / "moved.yaml").read_text())


def sentence(instead: str) -> str:
    if instead.startswith("nothing: "):
        return f"was removed: {instead.removeprefix('nothing: ')}"
    return f"moved; write instead: {instead}"


# A setting and one below it cannot be given at once.
MOVED = [
    (old, sentence(new["instead"] if isinstance(new, dict) else new))
    for old, new in FILE.items()
    if old != "config.operator.job.agent"
]
IN_A_SECTION = {
    "config.context_storage.s3.": "config.context_storage.s3.bucket=logs,"
    "config.context_storage.s3.identity.role_arn=arn:aws:iam::123456789012:role/logs",
    "config.gateway.identity.": "config.gateway.identity.cloud=azure",
}
"""Sections that are optional and then need other settings, for the settings that moved out of them."""

WRONG = [
    ("receiver.replica=3", "at '/receiver': additional properties 'replica' not allowed"),
    ("recevier.replicas=3", "additional properties 'recevier' not allowed"),
    ("receiver.replicas=many", "at '/receiver/replicas': got string, want "),
    ("receiver.service.port=70000", "at '/receiver/service/port'"),
    ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
    ("receiver.image.digest=abc", "at '/receiver/image/digest'"),
    ("secrets.webhook.github=short", "at '/secrets/webhook/github'"),
    ("secrets.github.tokn=x", "at '/secrets/github': additional properties 'tokn' not allowed"),
    ("ingress.host=https://agent.example.com/", "at '/ingress/host'"),
    ("networkPolicy.forge.cidrs={github.com}", "at '/networkPolicy/forge/cidrs/0'"),
    ("networkPolicy.model.cidrs={169.254.169.254/32}", "at '/networkPolicy/model/cidrs/0'"),
    ("polling.schedule=often", "at '/polling/schedule'"),
    ("config.webhok.enabled=true", "at '/config': additional properties 'webhok' not allowed"),
    ("config.llm.openai.max_token=-1", "at '/config/llm/openai/max_token'"),
    ("config.limits.per_repository=many", "at '/config/limits/per_repository': got string, want "),
    ("commonLabels.team=a b", "at '/commonLabels/team': 'a b' does not match pattern"),
    ("receiver.podLabels.a%b=x", "at '/receiver/podLabels': additional properties 'a%b' not allowed"),
    ("image.pullSecrets={null}", "at '/image/pullSecrets/0'"),
    ("config.queue.backend=memory", "at '/config/queue': additional properties 'backend' not allowed"),
    (
        "config.llm.openai.api_key=sk-1",
        "at '/config/llm/openai': additional properties 'api_key' not allowed",
    ),
    ("operator.namespaces={a,a}", "at '/operator/namespaces'"),
    (
        "config.github.app.private_key_file=x",
        "at '/config/github/app': additional properties 'private_key_file' not allowed",
    ),
    ("secrets.tokens.key=short", "at '/secrets/tokens/key'"),
    (
        "config.operator.namespaces={team-a}",
        "at '/config/operator': additional properties 'namespaces' not allowed",
    ),
    ("config.authorize=everyone", "at '/config/authorize': value must be one of 'write', 'triage', 'anyone'"),
    ("config.operator.job.image=x", "at '/config/operator/job': additional properties 'image' not allowed"),
    ("config.operator.job.pod_template=lots", "at '/config/operator/job/pod_template'"),
    ("trustedCertificates.configmap=x", "at '/trustedCertificates': additional properties 'configmap'"),
    ("global.imagePullSecrets={Mirror}", "at '/global/imagePullSecrets/0'"),
    ("pods.serviceAccount.name=one", "at '/pods/serviceAccount': additional properties 'name' not allowed"),
    ("pods.extraVolumes[0].name=tmp", "at '/pods/extraVolumes/0/name'"),
    (
        "operator.extraVolumeMounts[0].name=x",
        "at '/operator/extraVolumeMounts/0': missing property 'mountPath'",
    ),
    ("receiver.livenessProbe.exec=x", "additional properties 'exec' not allowed"),
    ("polling.extraContainers={}", "at '/polling': additional properties 'extraContainers' not allowed"),
    ("proxy.https=http://user:password@proxy:3128", "at '/proxy/https'"),
    ("proxy.noProxy={10.0.0.0/8}", "at '/proxy/noProxy/0'"),
    ("config.operator.job.runtime_classes.strangers=kata", "additional properties 'strangers' not allowed"),
]
"""The schema refuses them, all at once."""
IMPOSSIBLE = [
    ("operator.enabled=false,operator.namespaces={team-a}", "operator.namespaces: this list has no effect"),
    ("secrets.github.existingSecret=mine", "secrets.github: give either existingSecret or token"),
    ("config.github.app.app_id=7", "secrets.github: config.github.app gives the tokens"),
    ("secrets.s3.existingSecret=mine", "config.context_storage.s3.bucket: "),
    ("fullnameOverride=Foo_Bar", 'fullnameOverride: "Foo_Bar" is not a valid object name'),
    ("ingress.enabled=true", "ingress.host: "),
    ("httpRoute.enabled=true", "httpRoute.parentRefs: "),
    (
        "config.consumer.runner=claude-code",
        "config.consumer.runner: claude-code speaks only the format of anthropic",
    ),
    (
        "config.consumer.runners.acme/a=gemini",
        "config.consumer.runners: gemini speaks only the format of google",
    ),
    ("receiver.enabled=false,ingress.enabled=true", "ingress.enabled: it needs the receiver"),
    ("receiver.enabled=false,httpRoute.enabled=true", "httpRoute.enabled: it needs the receiver"),
    ("polling.enabled=true", "config.github.owner: "),
    ("metrics.prometheusRule.disabled={CodingAgentDown}", "no alert has the name CodingAgentDown"),
    (
        "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
        "metrics.podMonitor.enabled: with a ServiceMonitor too",
    ),
    ("receiver.service.nodePort=30080", "receiver.service.nodePort: a Service of the type ClusterIP"),
    ("reporter.serviceAccount.create=false", "reporter.serviceAccount.name: required with"),
    ("attempts.serviceAccount.create=false", "attempts.serviceAccount.name: required with"),
    ("proxy.https=http://proxy:3128", "networkPolicy.proxy.cidrs: required with proxy.http"),
    (
        "config.operator.job.runtime_classes.untrusted=kata,"
        "config.operator.job.pod_template.spec.runtimeClassName=kata",
        "config.operator.job.runtime_classes: config.operator.job.pod_template.spec.runtimeClassName already",
    ),
    *(
        (f"{old}=1", f"{old}: this setting {new}")
        for old, new in MOVED
        if not old.startswith(tuple(IN_A_SECTION))
    ),
]
"""The templates refuse them, all at once."""
APART = [
    ("operator.namespaces={*,team-a}", "operator.namespaces: * means all namespaces"),
    (
        "operator.enabled=false,config.github.app.app_id=7",
        "tokens.url: required with config.github.app and operator.enabled=false",
    ),
    ("secrets.webhook.rotating=true", "secrets.webhook.githubPrevious: "),
    ("secrets.s3.accessKeyId=id", "secrets.s3: set both accessKeyId and secretAccessKey"),
    ("proxy.noProxy={.example.com}", "proxy.noProxy: it has no effect without proxy.http"),
]
"""Beside the others they would be hidden, or hide those."""
WITH_THE_OPERATOR = [
    (
        "config.github.app.app_id=7,tokens.url=http://other:8080",
        "tokens.url: this release runs the token service itself",
    ),
    ("egress.enabled=true,proxy.https=http://proxy:3128", "egress.parent.host: required with proxy.http"),
    *(
        (f"{required},{old}=1", f"{old}: this setting {new}")
        for old, new in MOVED
        for section, required in IN_A_SECTION.items()
        if old.startswith(section)
    ),
    (
        "secrets.s3.existingSecret=mine,config.context_storage.s3.bucket=logs,"
        "config.context_storage.s3.identity.role_arn=arn:aws:iam::123456789012:role/logs",
        "secrets.s3: config.context_storage.s3.identity gives access",
    ),
]
"""These need an operator or a bucket, and others above have none."""


@pytest.mark.parametrize("wrong", [WRONG, IMPOSSIBLE, APART, WITH_THE_OPERATOR])
def test_every_wrong_value_is_named(wrong: list[tuple[str, str]]) -> None:
    settings = [argument for setting, _ in wrong for argument in ("--set", setting)]
    with pytest.raises(HelmError) as error:
        helm("template", "coding-agent", str(CHART), "--values", str(REQUIRED), *settings)
    assert [entry for entry in wrong if entry[1] not in str(error.value)] == []


def test_without_values_attempts_wait_for_two_secrets_that_the_notes_create() -> None:
    objects = objects_of(helm("template", "coding-agent", str(CHART)))
    made = {o["metadata"]["name"] for o in objects if o["kind"] == "Secret"}
    assert made == {"coding-agent-comments", "coding-agent-webhook"}
    config = yaml.safe_load(one(objects, "ConfigMap", "coding-agent")["data"]["config.yaml"])
    credentials = {entry["secret"]: entry["key"] for entry in config["operator"]["job"]["credentials"]}
    wanted = {secret: key for secret, key in credentials.items() if secret not in made}
    assert wanted == {"coding-agent-github": "token", "coding-agent-model": "api-key"}
    notes = helm("install", "coding-agent", str(CHART), "--dry-run=client")
    for secret, key in wanted.items():
        assert f"create secret generic {secret} --from-literal={key}=" in notes


def test_pods_start_anew_when_the_configuration_changes_and_not_when_a_secret_does() -> None:
    def checksums(values: dict[str, Any]) -> dict[str, str]:
        found = render(REQUIRED, values=values)
        pods = {entry["metadata"]["name"]: entry for entry in found if entry["kind"] == "Deployment"}
        return {
            name: pod["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for name, pod in pods.items()
        }

    before = checksums({})
    assert len(before) == 3
    assert checksums({"secrets": {"webhook": {"github": "another-secret-0123456"}}}) == before
    after = checksums({"config": {"limits": {"global": 7}}})
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] == before[name]] == []


def test_labels_by_which_objects_are_found_are_refused() -> None:
    found_by = {
        "commonLabels": ("name", "component", "managed-by"),
        "pods.podLabels": ("instance",),
        "receiver.podLabels": ("instance",),
        "operator.podLabels": ("component",),
        "reporter.podLabels": ("name",),
        "polling.podLabels": ("name",),
        "userConfig.podLabels": ("name",),
        "receiver.service.labels": ("name",),
        "httpRoute.labels": ("name",),
        "metrics.serviceMonitor.labels": ("name",),
        "metrics.prometheusRule.labels": ("instance",),
        "metrics.dashboard.labels": ("name",),
    }
    wrong = {path: [f"app.kubernetes.io/{name}" for name in names] for path, names in found_by.items()}
    wrong["commonLabels"].append("helm.sh/chart")
    values: dict[str, Any] = {}
    for path, labels in wrong.items():
        section = values
        for key in path.split("."):
            section = section.setdefault(key, {})
        section |= dict.fromkeys(labels, "mine")
    with pytest.raises(HelmError) as error:
        render(REQUIRED, values=values)
    expected = [
        f"- {path}: the chart sets the label {label} itself" for path in wrong for label in wrong[path]
    ]
    assert [sentence for sentence in expected if sentence not in str(error.value)] == []


class UniqueKeys(yaml.CSafeLoader):
    """YAML in which a key may be there once, as kustomize and Argo CD read it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


def test_labels_are_replaced_no_key_is_there_twice_and_no_user_is_fixed(tmp_path: Path) -> None:
    mine = {"app.kubernetes.io/part-of": "platform", "app.kubernetes.io/version": "9", "tier": "a"}
    values = {
        "commonLabels": {**mine, "rbac.authorization.k8s.io/aggregate-to-view": "false"},
        "receiver": {"podLabels": {"tier": "b"}, "podAnnotations": {"checksum/config": "mine"}},
        "transcripts": {"persistence": {"annotations": {"helm.sh/resource-policy": "delete"}}},
        "metrics": {name: {"labels": mine} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
        "podSecurity": {"fixedIds": False},
    }
    text = render_text(CHART / "ci" / "everything-values.yaml", values=values)
    objects = [found for found in yaml.load_all(text, UniqueKeys) if found]
    receiver = one(objects, "Deployment", "coding-agent-receiver")
    assert receiver["metadata"]["labels"].items() >= mine.items()
    pod = receiver["spec"]["template"]["metadata"]
    assert pod["labels"]["tier"] == "b"
    assert pod["annotations"]["checksum/config"] != "mine"
    claim = one(objects, "PersistentVolumeClaim", "coding-agent-transcripts")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    view = one(objects, "ClusterRole", "agents-coding-agent-agenttasks-view")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(text.replace(":", " ").split())
    assert load_settings(config_of(objects, tmp_path), {}).operator.job.fixed_ids is False


def config_of(objects: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "coding-agent")["data"]["config.yaml"])
    return file


@pytest.mark.parametrize("values", VALUES_FILES, ids=lambda file: file.stem)
def test_the_programs_take_the_config_yaml_that_is_made(values: Path, tmp_path: Path) -> None:
    settings = load_settings(config_of(render(values), tmp_path), {})
    assert settings.backend is Backend.KUBERNETES
    job = settings.operator.job
    assert job.config_map == "coding-agent"
    assert job.service_account == "coding-agent-attempt"
    assert settings.limits.of("github.com", "selftest.invalid/helm-test") == 0


# Time for helm, which may have to be built first.

PLATFORM, TEAM, EVERYWHERE = (
    CHART / "ci" / f"{name}-values.yaml" for name in ("platform", "team", "cluster-wide")
)
ROLE = Path(__file__).parents[3] / "operator" / "deploy" / "role.yaml"


def test_both_releases_share_no_object_and_the_rights_are_one_source() -> None:
    platform, team = render(PLATFORM, namespace="platform"), render(TEAM, namespace="team-a")

    def keys(objects: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
        return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects}

    assert keys(platform) & keys(team) == set()
    assert not [o for o in team if "operator" in o["metadata"]["name"]]
    given = next(d["rules"] for d in yaml.safe_load_all(ROLE.read_text()) if d["kind"] == "Role")
    roles = {
        o["metadata"]["namespace"]: o
        for o in platform
        if o["kind"] == "Role" and "operator" in o["metadata"]["name"]
    }
    assert set(roles) == {"platform", "team-a", "team-b"}
    assert all(role["rules"] == given for role in roles.values())
    cluster = render(EVERYWHERE, namespace="platform")
    assert one(cluster, "ClusterRole", "coding-agent-operator-platform")["rules"] == given
    cluster_wide = {o["kind"] for o in platform if "namespace" not in o["metadata"]}
    policies = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert cluster_wide == {"CustomResourceDefinition", "ClusterRole", *policies}
