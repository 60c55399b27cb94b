"""docker-compose.yml: the specification's services, hardened, each with no more secrets than it needs."""

import re
import shutil
from ipaddress import ip_address
from pathlib import Path

import pytest
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.reading import read_settings
from coding_agent_core.settings.receiver import networks
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.runners import RunnerName
from coding_agent_egress.squid import VARIABLES, EgressSettings, agent_targets

from tests.fixtures.rabbitmq import Broker
from tests.sweep.compose.conftest import Render
from tests.sweep.compose.project import FILE, ROOT, ComposeError, Project, compose

# The first use builds docker compose.
pytestmark = pytest.mark.timeout(900)

PASSWORD = {"RABBITMQ_PASSWORD": "broker-password", "USER_CONFIG_API_KEY": "user-config-key"}
OURS = {"webhook-server", "task-consumer", "workspace", "producer", "user-config-api", "egress"}
SECRETS = {
    "caddy": set(),
    "rabbitmq": set(),
    "workspace": set(),
    "webhook-server": {"github_webhook_secret", "gitlab_webhook_token", "gitea_webhook_secret"},
    "producer": {"github_token", "gitlab_token", "gitea_token"},
    "task-consumer": {
        "github_token",
        "gitlab_token",
        "gitea_token",
        "openai_api_key",
        "anthropic_api_key",
        "comment_key",
        "gemini_api_key",
        "user_config_api_key",
        "egress_key",
    },
    "egress": {"egress_key"},
    "user-config-api": {"user_config_api_key"},
}
"""Who may have which: nobody more than it needs."""


def test_every_service_is_hardened_and_gets_its_own_secrets_only(rendered: Render) -> None:
    services = rendered(**PASSWORD).services
    assert set(services) == set(SECRETS)
    for name, service in services.items():
        assert {secret["source"] for secret in service.get("secrets") or []} == SECRETS[name]
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert not service.get("privileged"), name
        assert "container_name" not in service, "names of its own forbid replicas"
        if name in OURS:
            assert service["user"] == "10001:10001", name
            assert "cap_add" not in service, name
        if name != "rabbitmq":
            assert service["read_only"], name
        if name not in ("task-consumer", "producer"):
            assert service["healthcheck"]["test"], name


def test_only_caddy_is_open_to_the_world_and_the_workspace_sees_no_other_service(rendered: Render) -> None:
    project = rendered(**PASSWORD)
    assert [name for name, service in project.services.items() if service.get("ports")] == ["caddy"]
    members = members_of(project)
    assert members["workspace"] == {"workspace", "egress"}
    assert members["model"] == {"workspace", "task-consumer"}
    assert not any(
        "workspace" in services for name, services in members.items() if name not in ("workspace", "model")
    )
    consumer = project.services["task-consumer"]
    assert consumer["networks"]["model"]["aliases"] == [project.environment("task-consumer")["GATEWAY_HOST"]]
    assert not any(
        (consumer["networks"][name] or {}).get("aliases") for name in consumer["networks"] if name != "model"
    )
    assert project.data["networks"]["queue"]["internal"]
    assert not project.environment("workspace")


def file_of(project: Project, service: str) -> Path:
    """The settings file of a service, on this machine."""
    file = project.mounts(service).get(project.environment(service).get("CONFIG_FILE", ""))
    return Path(file or project.mounts(service)["/etc/coding-agent/config.yaml"])


def settings_of(project: Project, service: str) -> Settings:
    """As the service reads them."""
    return load_settings(file_of(project, service), project.environment(service))


def members_of(project: Project) -> dict[str, set[str]]:
    """The services of each network."""
    return {
        network: {name for name, service in project.services.items() if network in service["networks"]}
        for network in project.data["networks"]
    }


@pytest.mark.parametrize(
    ("forge", "path"), [("GITHUB", "/api/v3"), ("GITLAB", "/api/v4"), ("GITEA", "/api/v1")]
)
def test_the_egress_proxy_learns_the_hosts_of_the_agent_and_no_token(
    rendered: Render, forge: str, path: str
) -> None:
    secret = dict.fromkeys((f"{forge}_PERSONAL_ACCESS_TOKEN", "ANTHROPIC_API_KEY"), "the-secret")
    given = {f"{forge}_API_URL": f"https://forge.example.com{path}", "LLM_PROVIDER": "anthropic", **secret}
    project = rendered(**PASSWORD, **given, EGRESS="true", EGRESS_KEY="k")
    assert project.services["egress"]["deploy"]["replicas"] == 1
    open_networks = {
        name for name, network in project.data["networks"].items() if not network.get("internal")
    }
    for service in ("task-consumer", "workspace"):
        assert not open_networks & set(project.services[service]["networks"]), "the proxy is the only way out"
    environment = project.environment("egress")
    assert "the-secret" not in str(environment)
    settings = [
        read_settings(EgressSettings, VARIABLES, file_of(project, name), project.environment(name)).require()
        for name in ("egress", "task-consumer")
    ]
    hosts = [agent_targets(each) for each in settings]
    assert hosts[0] == hosts[1]
    assert {"forge.example.com", "api.anthropic.com", "user-config-api"} == {
        target.host for target in hosts[0]
    }
    assert [Secrets(each.egress.key).first() for each in settings] == ["k", "k"]


def test_a_secret_is_a_value_or_a_file_and_a_runner_has_an_image(
    rendered: Render, docker_compose: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    by_file = {"GITHUB_WEBHOOK_SECRET_FILE": str(tmp_path / "secret")}
    project = rendered(**PASSWORD, **by_file, GITHUB_PERSONAL_ACCESS_TOKEN="t0ken", RUNNER="codex")
    environment = project.environment("webhook-server")
    assert environment["GITHUB_WEBHOOK_SECRET"] == ""
    mounted = project.mounts("webhook-server")[environment["GITHUB_WEBHOOK_SECRET_FILE"]]
    assert Path(mounted).read_text() == "from a file\n"
    environment = project.environment("task-consumer")
    assert environment["GITHUB_PERSONAL_ACCESS_TOKEN"] == "t0ken"
    assert environment["GITHUB_PERSONAL_ACCESS_TOKEN_FILE"] == ""

    images = [project.services[name]["image"] for name in ("workspace", "task-consumer")]
    assert images == ["coding-agent-codex:dev", "coding-agent-consumer:dev"]
    settings = settings_of(project, "task-consumer")
    assert settings.consumer.runner is RunnerName.CODEX
    assert settings.gateway.host == "gateway"
    assert settings.consumer.workspace.gate, "so metrics are served on loopback alone"
    assert settings.consumer.concurrency == 1, "the workspace serves one task at a time"
    bridge = ip_address("172.18.0.5")  # Docker takes its networks out of these by itself
    assert any(bridge in network for network in networks(settings.webhook.trusted_proxies))
    # `docker compose up -d producer` needs no --profile, and without it no producer starts.
    assert set(rendered("producer", **PASSWORD).services) == {"producer", "rabbitmq"}
    started = compose(docker_compose, tmp_path, "config", "--services", variables=PASSWORD).split()
    assert set(started) >= {"webhook-server", "task-consumer", "rabbitmq", "user-config-api", "workspace"}
    assert "producer" not in started


def test_what_is_missing_is_said(docker_compose: Path, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"RABBITMQ_PASSWORD.*set a password for the broker in \.env"):
        compose(docker_compose, tmp_path, "config", "--quiet", variables={"USER_CONFIG_API_KEY": "k"})
    with pytest.raises(ComposeError, match=r"set USER_CONFIG_API_KEY or USER_CONFIG_API_KEY_FILE in \.env"):
        compose(docker_compose, tmp_path, "config", "--quiet", variables={"RABBITMQ_PASSWORD": "p"})
    key = tmp_path / "key"
    key.write_text("k\n")
    by_file = {"RABBITMQ_PASSWORD": "p", "USER_CONFIG_API_KEY_FILE": str(key)}
    compose(docker_compose, tmp_path, "config", "--quiet", variables=by_file)


def test_the_example_names_every_variable_that_a_person_sets() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", FILE.read_text(encoding="utf-8")))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"\b([A-Z][A-Z_]+)(?==)", example))
    deliberate = {
        *("VERSION", "BASE_IMAGE", "CADDY_IMAGE", "RABBITMQ_IMAGE"),  # for who builds or mirrors images
        *("RABBITMQ_USER", "USE_USER_CONFIG_API", "USER_CONFIG_DIRECTORY"),
        *("LMSTUDIO_BASE_URL", "LMSTUDIO_MODEL"),
    }
    assert used - named == deliberate
    assert named <= used


def test_the_broker_waits_a_day_for_a_task(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    shutil.copy(ROOT / "dev/compose/rabbitmq/20-coding-agent.conf", tmp_path / "broker" / "rabbitmq.conf")
    try:
        broker.start()
        assert broker.setting("consumer_timeout") == str(24 * 3600 * 1000)
    finally:
        broker.close()
