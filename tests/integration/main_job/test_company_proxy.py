"""The main job behind a company's proxy, with the variables that the chart gives to all programs."""

from pathlib import Path

from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.server import ModelServer
from coding_agent_testbed.until import until

from tests.chart.edge import certificate
from tests.chart.helm import one, render
from tests.fixtures.company_proxy import CompanyProxy
from tests.fixtures.system import DONE, MODEL_KEY, REPOSITORY, SECRET, System, sample_repository
from tests.integration.main_job.scripts import fixes_the_bug


def variables(proxy: CompanyProxy, *direct: str) -> dict[str, str]:
    """Return the proxy's variables as the chart sets them in a pod."""
    values = {
        "proxy": {"http": proxy.url, "https": proxy.url, "noProxy": list(direct)},
        "networkPolicy": {"proxy": {"cidrs": ["127.0.0.1/32"]}},
    }
    objects = render(values=values)
    pod = one(objects, "Deployment", "coding-agent-receiver")["spec"]["template"]["spec"]
    found = {entry["name"]: entry.get("value", "") for entry in pod["containers"][0]["env"]}
    return {name: value for name, value in found.items() if name.lower().endswith("_proxy")}


def test_forge_git_and_model_are_reached_through_it(tmp_path: Path, company_proxy: CompanyProxy) -> None:
    """Only the proxy knows the names of the forge, which speaks TLS, and of the model, which does not."""
    authority = certificate(tmp_path, "DNS:forge.example.com")
    both = tmp_path / "both.pem"
    both.write_text(authority.read_text() + authority.with_name("tls.key").read_text())
    [port] = free_ports(1)
    with (
        ForgeServer(
            "github",
            sample_repository(),
            tmp_path / "repositories",
            port=port,
            certificate=both,
            public_url=f"https://forge.example.com:{port}",
        ) as forge,
        ModelServer(fixes_the_bug(), api_key=MODEL_KEY) as model,
    ):
        sections = {
            "llm": {"openai": {"base_url": model.base_url.replace("127.0.0.1", "model.example.com")}},
            "webhook": {"allowed_networks": ["github", "127.0.0.1"]},
        }
        system = System(forge, model, tmp_path, sections)
        try:
            proxied = {**variables(company_proxy), "SSL_CERT_FILE": str(authority)}
            program = system.start("--mode", "webhook", **proxied)
            forge.add_hook(REPOSITORY, f"http://127.0.0.1:{program.port()}/webhook/github", SECRET)
            system.put_label(1)
            until(lambda: f"the label; {program.text()}", lambda: DONE in system.labels(1))
        finally:
            system.close()
        assert len(system.changes()) == 1
    assert "GitHub sends webhooks from" in program.text(), "the receiver has read the forge's addresses"
    assert company_proxy.asked() == {"CONNECT:forge.example.com", "POST:model.example.com"}


def test_hosts_in_no_proxy_are_reached_without_it(tmp_path: Path, company_proxy: CompanyProxy) -> None:
    with (
        ForgeServer("gitlab", sample_repository(), tmp_path / "repositories", host="127.0.0.2") as forge,
        ModelServer(fixes_the_bug(), api_key=MODEL_KEY) as model,
    ):
        system = System(forge, model, tmp_path)
        system.put_label(1)
        try:
            program = system.start(**variables(company_proxy, "127.0.0.2"))
            assert program.process.wait(150) == 0, program.text()
        finally:
            system.close()
        assert len(system.changes()) == 1
    assert company_proxy.asked() == set()
