"""Wrong values are refused and the key named; right ones make a config.yaml that the programs take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.settings import load_settings
from coding_agent_core.settings.model import Backend

from tests.chart.helm import CHART, VALUES_FILES, HelmError, helm, one, render

# Time for the tools, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

REQUIRED = CHART / "ci" / "required-values.yaml"

WRONG = [
    ("receiver.replica=3", "at '/receiver': additional properties 'replica' not allowed"),
    ("recevier.replicas=3", "additional properties 'recevier' not allowed"),
    ("receiver.replicas=many", "at '/receiver/replicas': got string, want integer"),
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
    ("config.limits.perRepository=many", "at '/config/limits/perRepository': got string, want integer"),
    ("config.queue.backend=memory", "at '/config/queue': additional properties 'backend' not allowed"),
    (
        "config.llm.openai.api_key=sk-1",
        "at '/config/llm/openai': additional properties 'api_key' not allowed",
    ),
    ("operator.namespaces={Team}", "at '/operator/namespaces/0'"),
    ("operator.namespaces={a,a}", "at '/operator/namespaces'"),
    ("operator.namespaces={*,team-a}", "operator.namespaces: * means all namespaces"),
    ("operator.enabled=false,operator.namespaces={team-a}", "operator.namespaces: it has no effect"),
    (
        "config.operator.namespaces={team-a}",
        "at '/config/operator': additional properties 'namespaces' not allowed",
    ),
    ("config.operator.job.image=x", "at '/config/operator/job': additional properties 'image' not allowed"),
    ("secrets.github.existingSecret=mine", "secrets.github: give either existingSecret or token"),
    ("secrets.webhook.rotating=true", "secrets.webhook.githubPrevious: "),
    ("secrets.s3.accessKeyId=id", "secrets.s3: set both accessKeyId and secretAccessKey"),
    ("secrets.s3.existingSecret=mine", "config.context_storage.s3.bucket: "),
    ("fullnameOverride=Foo_Bar", 'fullnameOverride: "Foo_Bar" is not a valid object name'),
    ("ingress.enabled=true", "ingress.host: "),
    ("httpRoute.enabled=true", "httpRoute.parentRefs: "),
    ("receiver.enabled=false,ingress.enabled=true", "ingress.enabled: it needs the receiver"),
    ("receiver.enabled=false,httpRoute.enabled=true", "httpRoute.enabled: it needs the receiver"),
    ("polling.enabled=true", "config.github.owner: "),
    ("config.operator.job.pod_template=lots", "at '/config/operator/job/pod_template'"),
    ("metrics.prometheusRule.disabled={CodingAgentDown}", "no alert has the name CodingAgentDown"),
    ("trustedCertificates.configmap=x", "at '/trustedCertificates': additional properties 'configmap'"),
]


@pytest.mark.parametrize(("setting", "said"), WRONG, ids=[setting for setting, _ in WRONG])
def test_a_wrong_value_is_named(setting: str, said: str) -> None:
    with pytest.raises(HelmError) as error:
        helm("template", "coding-agent", str(CHART), "--values", str(REQUIRED), "--set", setting)
    assert said in str(error.value)


def test_the_token_and_the_key_are_asked_for_at_once() -> None:
    with pytest.raises(HelmError) as error:
        helm("template", "coding-agent", str(CHART))
    assert "secrets.github.token or secrets.gitlab.token" in str(error.value)
    assert "secrets.model.apiKey" in str(error.value)


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


def test_a_key_with_nothing_behind_it_is_named() -> None:
    whole = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in (key for key, value in whole.items() if isinstance(value, dict) and value):
        with pytest.raises(HelmError, match=f"- {key}: there is nothing behind the key"):
            helm("template", "coding-agent", str(CHART), "--values", str(REQUIRED), "--set", f"{key}=null")


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


def test_attempts_trust_the_authorities_of_the_values(tmp_path: Path) -> None:
    values = {"trustedCertificates": {"configMap": "authorities"}}
    job = load_settings(config_of(render(REQUIRED, values=values), tmp_path), {}).operator.job
    pod = job.pod_template["spec"]
    [agent] = pod["containers"]
    [mount] = agent["volumeMounts"]
    assert (mount["name"], mount["readOnly"]) == ("trusted-certificates", True)
    [variable] = agent["env"]
    assert Path(variable["value"]).parent == Path(mount["mountPath"])
    [volume] = pod["volumes"]
    assert volume["configMap"]["name"] == "authorities"


def test_settings_of_the_values_arrive(tmp_path: Path) -> None:
    settings = load_settings(config_of(render(CHART / "ci" / "everything-values.yaml"), tmp_path), {})
    assert settings.limits.per_repository == 3
    assert settings.limits.of("github.com", "acme/big") == 10
    assert settings.gitlab.host == "gitlab.example.com"
    job = settings.operator.job
    assert job.workspace.image == "registry.example.com/team/toolchain:1"
    names = [container["name"] for container in job.pod_template["spec"]["containers"]]
    assert names == ["agent", "workspace", "agent"]
    assert job.pod_template["spec"]["containers"][-1]["volumeMounts"][0]["name"] == "transcripts"
    assert [(c.secret, c.file, c.repository) for c in job.credentials][-1] == (
        "acme",
        "github-token",
        "acme/secret",
    )
    files = settings.webhook.github.secret.files
    assert [str(file) for file in files] == [
        "/etc/coding-agent/webhook/github",
        "/etc/coding-agent/webhook/github-previous",
    ]
    assert settings.user_config_api.url == "http://coding-agent-user-config:8080"
