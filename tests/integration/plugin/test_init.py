"""`kubectl agenttask init`: from a token and a key to an installation, and a sentence for each fault."""

import asyncio
import html
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_forge
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.model import Role
from coding_agent_testbed.until import until
from kubectl_agenttask.destinations import Destination, ServicePods
from kubectl_agenttask.services import pods_behind
from kubernetes.client import DiscoveryV1Api

from tests.chart.helm import render
from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, client, polled
from tests.fixtures.github_app import install
from tests.fixtures.hook_receiver import HookReceiver
from tests.fixtures.model import API_KEY
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import PLUGIN, Plugin, Said
from tests.integration.plugin.newcomer import BOT, Newcomer

LABELS = ["coding agent", "coding agent processing", "coding agent done"]


def states(said: Said) -> dict[str, str]:
    """The first word of each line by the rest of it."""
    before = said.out.partition("\nThe profile")[0].partition("\nNow install")[0]
    lines = [line.split(maxsplit=1) for line in before.splitlines() if line]
    return {" ".join(rest.split()): state for state, rest in lines}


def test_it_prepares_everything_for_helm_and_a_second_run_changes_nothing(newcomer: Newcomer) -> None:
    first = newcomer.init()
    assert newcomer.secret(f"{newcomer.forge.flavour.value}-token") == {"token": BOT_TOKEN}
    assert newcomer.secret("model-key") == {"api-key": API_KEY}
    assert set(LABELS) <= set(newcomer.labels())
    assert "helm upgrade --install coding-agent" in first.out
    assert BOT_TOKEN not in first.out + first.err + newcomer.values_file.read_text()
    assert API_KEY not in first.out + first.err + newcomer.values_file.read_text()
    assert len(newcomer.model.requests) == 1

    before = newcomer.values_file.read_text()
    newcomer.has(token="", key="")  # the Secrets have them now
    again = states(newcomer.init())
    assert {state for state in again.values() if state != "ok"} == {"kept"}
    assert len([line for line in again if line.startswith("label ")]) == len(LABELS)
    assert newcomer.values_file.read_text() == before


async def labeled(settings: Settings, platform: Platform) -> list[str]:
    """What a poll with these settings finds."""
    forge = connect_forge(settings, platform)
    try:
        return [request.item.display for request in await polled(forge)]
    finally:
        await forge.aclose()


def test_the_chart_takes_the_values_and_the_poll_finds_a_label_with_them(newcomer: Newcomer) -> None:
    newcomer.init("--registry", "registry.example.com/team")
    objects = render(newcomer.values_file, namespace=newcomer.place.namespace)
    kinds = {one["kind"] for one in objects}
    assert "CronJob" in kinds
    assert not {"Ingress"} & kinds
    [config] = [one["data"]["config.yaml"] for one in objects if one["kind"] == "ConfigMap"]
    platform = Platform(newcomer.forge.flavour.value)
    data = yaml.safe_load(config)
    data[platform.value]["personal_access_token"] = BOT_TOKEN
    settings = Settings.model_validate(data)
    section = settings.forge(platform)
    assert (section.api_url, section.account, section.narrowed) == (newcomer.forge.api_url, BOT, True)
    assert (settings.llm.address, settings.llm.model_name) == (newcomer.model.base_url, "scripted")
    # Attempts reach only the proxy, and the proxy what the settings name.
    [policy] = [
        one
        for one in objects
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "coding-agent-egress"
    ]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {newcomer.forge.port, int(newcomer.model.base_url.rsplit(":", 1)[1].split("/")[0])} <= ports
    newcomer.forge.add_label(REPOSITORY, 1, "coding agent")
    assert asyncio.run(labeled(settings, platform)) == [f"{REPOSITORY}#1"]


def test_values_that_somebody_added_stay(newcomer: Newcomer) -> None:
    newcomer.values_file.write_text("operator: {priorityClassName: high}\nreceiver: {enabled: true}\n")
    assert states(newcomer.init())[f"values {newcomer.values_file}"] == "changed"
    assert newcomer.values["operator"] == {"priorityClassName": "high"}
    assert newcomer.values["receiver"] == {"enabled": False}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"[1, 2]", "must contain a mapping"), (b"a: [", "is not YAML"), (b"\xff", "is not text in UTF-8")],
)
def test_a_values_file_that_cannot_be_read_is_said_before_anything_is_changed(
    github_forge: ForgeServer,
    newcomer_at: Callable[[ForgeServer], Newcomer],
    content: bytes,
    sentence: str,
) -> None:
    one = newcomer_at(github_forge)
    one.values_file.write_bytes(content)
    assert sentence in one.init(status=2).err
    assert (one.labels(), one.secrets(), one.values_file.read_bytes()) == ([], set(), content)


def test_it_creates_the_webhook_with_a_secret_that_the_chart_reads(
    newcomer: Newcomer, hook_receiver: HookReceiver
) -> None:
    forge = newcomer.forge
    forge.run(lambda: forge.repository(REPOSITORY).roles.update({BOT: Role.ADMIN}))
    said = newcomer.init("--webhook", "https://agent.example.com")
    url = f"https://agent.example.com/webhook/{forge.flavour.value}"
    [hook] = forge.sandbox.store.hooks
    assert (hook.url, hook.secret) == (url, newcomer.secret("webhook-secret")[forge.flavour.value])
    assert hook.wants("issues")
    assert states(said)[f"webhook {REPOSITORY} to {url}"] == "created"
    assert newcomer.values["ingress"]["host"] == "agent.example.com"
    assert states(newcomer.init("--webhook", url))[f"webhook {REPOSITORY} to {url}"] == "kept"
    assert len(forge.sandbox.store.hooks) == 1
    render(newcomer.values_file)
    newcomer.delete_secret("webhook-secret")
    for _ in range(2):
        assert "Delete the webhook at the forge" in newcomer.init("--webhook", url, status=1).err


def add_repositories(newcomer: Newcomer, number: int, **fields: Any) -> list[str]:
    """Give the owner of the sample more repositories, each with the sample's files."""
    store, sample = newcomer.forge.sandbox.store, newcomer.forge.repository(REPOSITORY)

    def add() -> list[str]:
        new = [
            replace(
                sample,
                roles=dict(sample.roles),
                id=store.next_id(),
                name=f"service-{each:03}",
                labels=[],
                items=[],
                pushes=[],
                **fields,
            )
            for each in range(number)
        ]
        store.repositories.extend(new)
        return [one.full_name for one in new]

    return newcomer.forge.run(add)


def without_repo(newcomer: Newcomer, *more: str, status: int = 0) -> Said:
    """Run `init` for an owner instead of a repository."""
    arguments = ["--platform", newcomer.forge.flavour.value, "--api-url", newcomer.forge.api_url]
    arguments += ["--provider", "openai", "--model", "scripted", "--model-url", newcomer.model.base_url]
    return newcomer.plugin("init", *arguments, "--values", str(newcomer.values_file), *more, status=status)


def test_one_init_prepares_200_repositories_and_the_poll_finds_a_label_in_the_last(
    newcomer: Newcomer,
) -> None:
    newcomer.forge.push(REPOSITORY, "main", {"requirements.txt": ""})
    added = add_repositories(newcomer, 199)
    newcomer.forge.run(lambda: newcomer.forge.repository(added[0]).roles.update({BOT: Role.READ}))
    said = without_repo(newcomer, "--owner", "acme")
    assert "acme has 200 repositories" in said.out
    assert f"warning  repository   left out: {added[0]} for {BOT}: the account may not push" in said.out
    assert f"{BOT} may read, label and push in 199 repositories of acme" in said.out
    assert "(199 of 199): coding agent" in said.out
    assert "(199 of 199)" in said.err, "reading the files takes long, so it is shown"
    assert [label.name for label in newcomer.forge.repository(added[-1]).labels] == ["coding agent"]
    assert newcomer.forge.repository(added[0]).labels == []
    assert len(newcomer.values["egress"]["repositories"]) == 199
    objects = render(newcomer.values_file, namespace=newcomer.place.namespace)
    [config] = [one["data"]["config.yaml"] for one in objects if one["kind"] == "ConfigMap"]
    platform = Platform(newcomer.forge.flavour.value)
    data = yaml.safe_load(config)
    data[platform.value]["personal_access_token"] = BOT_TOKEN
    number = newcomer.forge.open_issue(added[-1], "Last")
    newcomer.forge.add_label(added[-1], number, "coding agent")
    settings = Settings.model_validate(data)
    assert settings.forge(platform).narrowed
    assert asyncio.run(labeled(settings, platform)) == [f"{added[-1]}#{number}"]


def test_a_topic_chooses_among_the_repositories_of_an_owner(newcomer: Newcomer) -> None:
    add_repositories(newcomer, 3, topics=("agent",))
    said = without_repo(newcomer, "--owner", "acme", "--topic", "agent")
    assert "acme has 3 repositories" in said.out
    assert newcomer.labels() == []
    assert (
        "no repository of acme with the topic x"
        in without_repo(newcomer, "--owner", "acme", "--topic", "x", status=1).err
    )
    assert "give one of them" in newcomer.init("--owner", "acme", status=2).err


def test_the_team_profile_chooses_by_the_files_and_the_minimal_one_nothing(newcomer: Newcomer) -> None:
    ci = {"github": ".github/workflows/test.yml", "gitlab": ".gitlab-ci.yml"}[newcomer.forge.flavour.value]
    steps: dict[str, Any] = {"jobs": {"test": {"steps": [{"run": "npm ci"}, {"run": "npm test"}]}}}
    if newcomer.forge.flavour.value == "gitlab":
        steps = {"test": {"script": ["npm ci", "npm test"]}}
    files = {"package-lock.json": "{}", ci: yaml.safe_dump(steps)}
    newcomer.init("--profile", "minimal")
    assert {"egress", "transcripts"} & set(newcomer.values) == set()
    assert {"rounds", "budgets"} & set(newcomer.values["config"]) == set()
    newcomer.forge.push(REPOSITORY, "main", files)
    said = newcomer.init()
    assert newcomer.values["config"]["rounds"] == {"enabled": True, "draft": True}
    assert newcomer.values["config"]["budgets"]["task"] == {"tokens": 5_000_000}, "nobody knows its price"
    assert "registry.npmjs.org" in newcomer.values["egress"]["repositories"][REPOSITORY]
    assert f"# {REPOSITORY}\n# .coding-agent.yaml, from the commands of the CI files" in said.out
    assert "verify:\n- npm test" in said.out
    render(newcomer.values_file, namespace=newcomer.place.namespace)
    newcomer.forge.push(REPOSITORY, "main", {".coding-agent.yaml": "verify: [npm test]\n"})
    assert "verify:" not in newcomer.init().out, "it has one"


def expire(newcomer: Newcomer, days: int) -> None:
    user = newcomer.forge.user(BOT)
    user.token_expires_at = datetime.now(UTC).date() + timedelta(days=days)


def lose_scope(newcomer: Newcomer) -> None:
    newcomer.forge.user(BOT).scopes = ("read_user",)


def lose_role(newcomer: Newcomer) -> None:
    newcomer.forge.repository(REPOSITORY).roles[BOT] = Role.READ


@pytest.mark.parametrize(
    ("fault", "more", "sentence"),
    [
        (lambda one: one.has(token="wrong"), (), "Check the token and its permissions"),
        (lambda one: expire(one, 0), (), "Check the token and its permissions"),
        (lose_scope, (), "lacks the scope"),
        (lose_role, (), "the account may not push"),
        (lambda one: one.has(key="sk-wrong-key"), (), "does not accept the key (401)"),
        (lambda one: None, ("--model-url", "http://127.0.0.1:9/v1"), "cannot be reached"),
        (lambda one: None, ("--repo", "acme/nothing"), "check the name, and invite coding-agent-bot"),
        (lambda one: None, ("--webhook", "https://a.example"), "may not create webhooks in acme/pricing"),
    ],
)
def test_each_fault_has_its_sentence_and_nothing_is_changed(
    newcomer: Newcomer, fault: Any, more: tuple[str, ...], sentence: str
) -> None:
    fault(newcomer)
    said = newcomer.init(*more, status=1)
    line = said.only_wrong
    assert sentence in line
    assert "sk-wrong-key" not in said.out + said.err
    assert "nothing else was changed" in said.err
    assert (newcomer.labels(), newcomer.secrets(), newcomer.values_file.exists()) == ([], set(), False)


def test_a_model_that_only_the_cluster_knows_is_not_held_against_the_person(newcomer: Newcomer) -> None:
    said = newcomer.init("--model-url", "http://ollama.models.invalid:11434/v1")
    [line] = [line for line in said.out.splitlines() if line.startswith("unknown")]
    assert "this machine does not know ollama.models.invalid:11434" in line
    assert newcomer.values["networkPolicy"]["model"] == {"ports": [11434]}


def create_service(newcomer: Newcomer, **spec: Any) -> str:
    """Create a Service `vllm` with the port 8080, and return its DNS name."""
    core, namespace = newcomer.place.plane.core, newcomer.place.namespace
    body = {
        "metadata": {"name": "vllm"},
        "spec": {"ports": [{"name": "api", "port": 8080, **spec.pop("port", {})}], **spec},
    }
    core.create_namespaced_service(namespace, body, _request_timeout=60)
    return f"vllm.{namespace}.svc"


def test_a_model_in_the_cluster_is_allowed_by_its_pods_until_another_run_chooses_another_model(
    newcomer: Newcomer,
) -> None:
    host = create_service(newcomer, selector={"app": "vllm"}, port={"targetPort": 8000})
    newcomer.init("--model-url", f"http://{host}:8080/v1")
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": newcomer.place.namespace}}
    peer = {"namespaceSelector": namespace, "podSelector": {"matchLabels": {"app": "vllm"}}}
    assert newcomer.values["networkPolicy"]["model"] == {"to": [peer], "ports": [8000]}
    [policy] = [
        one
        for one in render(newcomer.values_file, namespace=newcomer.place.namespace)
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "coding-agent-egress"
    ]
    assert any(peer in rule["to"] for rule in policy["spec"]["egress"])

    newcomer.init("--model-url", "https://vllm.invalid/v1", "--model", "scripted")
    assert newcomer.values["networkPolicy"]["model"]["to"] == [peer], "nobody knows where the new model is"
    newcomer.init()
    assert "to" not in newcomer.values["networkPolicy"]["model"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "has no selector"),
        ({"selector": {"app": "vllm"}, "port": {"port": 80}}, "has no port 8080"),
        ({"selector": {"app": "vllm"}, "port": {"targetPort": "http"}}, "has the port 'http' now"),
    ],
)
def test_a_service_whose_pods_are_not_known_is_a_warning(
    github_forge: ForgeServer,
    newcomer_at: Callable[[ForgeServer], Newcomer],
    spec: dict[str, Any],
    sentence: str,
) -> None:
    newcomer = newcomer_at(github_forge)
    host = create_service(newcomer, **spec)
    said = newcomer.init("--model-url", f"http://{host}:8080/v1")
    [line] = [line for line in said.out.splitlines() if line.startswith("warning")]
    assert sentence in line
    assert f"set networkPolicy.model.to to a NetworkPolicyPeer of the pods behind {host}" in line
    assert "model" not in newcomer.values["networkPolicy"]


def test_the_pods_of_a_service_are_found_by_its_address_and_by_the_name_of_a_port(place: Place) -> None:
    core, namespace = place.plane.core, place.namespace
    port = {"name": "api", "port": 8080, "targetPort": "http"}
    spec = {"selector": {"app": "vllm"}, "ports": [port]}
    body = {"metadata": {"name": "vllm"}, "spec": spec}
    address = core.create_namespaced_service(namespace, body, _request_timeout=60).spec.cluster_ip
    discovery: Any = DiscoveryV1Api(place.plane.core.api_client)
    labels = {"kubernetes.io/service-name": "vllm"}
    for number in (8001, 8002):
        one = {
            "metadata": {"name": f"vllm-{number}", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"]}],
            "ports": [{"name": "api", "port": number}, {"name": "metrics", "port": 9000}],
        }
        discovery.create_namespaced_endpoint_slice(namespace, one, _request_timeout=60)
    api_client = place.plane.core.api_client
    at = Destination(f"http://{address}:8080", address)
    assert pods_behind(api_client, at) == ServicePods(namespace, {"app": "vllm"}, (8001, 8002))
    assert pods_behind(api_client, replace(at, address="10.99.99.99")) is None


def test_a_token_that_ends_soon_is_a_warning(newcomer: Newcomer) -> None:
    expire(newcomer, 3)
    said = newcomer.init()
    [line] = [line for line in said.out.splitlines() if line.startswith("warning")]
    assert f"expires on {newcomer.forge.user(BOT).token_expires_at}" in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--platform", "github"), "GITHUB_PERSONAL_ACCESS_TOKEN is not set"),
        ((), "--platform is missing"),
        (("--platform", "svn"), "'svn' is not a forge"),
    ],
)
def test_what_is_missing_without_a_terminal_is_named(
    plugin: Plugin, arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_PERSONAL_ACCESS_TOKEN", raising=False)
    assert sentence in plugin("init", *arguments, status=2).err


CTRL_C = "\x03"


def sleeps(pid: int) -> bool:
    """Whether a process waits, as at a question; proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("S")


def at_a_terminal(one: Newcomer, typed: dict[str, str], status: int = 0) -> str:
    """Run `init` at a terminal, and type an answer after each of these texts; everything that is shown."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(one.place.folder), "TERM": "dumb"}
    # A test that runs in the background ignores SIGINT, and so would the program.
    command = ["env", "--default-signal=INT", str(PLUGIN), "init", "-n", one.place.namespace]
    command += ["--values", str(one.values_file)]
    command += ["--kubeconfig", str(one.place.plane.kubeconfig)]
    ours, theirs = pty.openpty()
    # A session of its own, so that `/dev/tty` is this terminal.
    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    try:
        os.close(theirs)
        shown, waiting = "", list(typed.items())
        while True:
            assert select.select([ours], [], [], 60)[0], shown
            try:
                part = os.read(ours, 4096).decode()
            except OSError:  # the program has closed the terminal
                break
            shown += part
            if waiting and waiting[0][0] in shown:
                answer = waiting.pop(0)[1]
                if answer == CTRL_C:
                    # Python does not notice a signal between its question and its read until the next key.
                    until("wait for an answer", lambda: sleeps(process.pid))
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, f"{answer}\n".encode())
        assert process.wait(60) == status, shown
    finally:
        process.kill()  # does nothing if it has ended; otherwise a failed test would wait for it
        process.wait()
        os.close(ours)
    return shown


def test_a_person_at_a_terminal_is_asked_and_the_token_is_not_shown(
    github_forge: ForgeServer, newcomer_at: Callable[[ForgeServer], Newcomer]
) -> None:
    one = newcomer_at(github_forge)
    typed = {
        "Forge: ": "",
        "Address of the API of GitHub": one.forge.api_url,
        "Token of the agent's account": BOT_TOKEN,
        "Repositories, as OWNER/NAME": REPOSITORY,
        "Model: ": "",
        "Address of the model's API": one.model.base_url,
        "Name of the model": "scripted",
        "Key of the model": API_KEY,
    }
    shown = at_a_terminal(one, typed | {"[Y/n]": CTRL_C}, status=130)
    assert "Traceback" not in shown
    assert (one.labels(), one.secrets(), one.values_file.exists()) == ([], set(), False)
    shown = at_a_terminal(one, typed | {"[Y/n]": "y"})
    assert "Now install it:" in shown
    assert BOT_TOKEN not in shown
    assert API_KEY not in shown
    assert one.secret("github-token") == {"token": BOT_TOKEN}


def page_form(page: Path) -> tuple[str, str]:
    """Where the page sends the manifest, and the manifest."""
    text = page.read_text()
    action = re.search(r'action="([^"]*)"', text)
    manifest = re.search(r'name="manifest" value="([^"]*)"', text)
    assert action is not None
    assert manifest is not None
    return html.unescape(action[1]), html.unescape(manifest[1])


def test_a_github_app_is_registered_and_its_key_is_only_in_the_secret(
    github_forge: ForgeServer, newcomer_at: Callable[[ForgeServer], Newcomer]
) -> None:
    one = newcomer_at(github_forge)
    one.has(token="")
    folder = one.place.folder
    assert "run the command again with --code" in one.init("--github-app", status=1).err
    action, manifest = page_form(folder / "register-github-app.html")
    with client(github_forge, None) as browser:
        shown = browser.post(action, data={"manifest": manifest})
    assert shown.status_code == 302

    # The App exists now, and is installed nowhere: the key is kept, and the sentence says what to do.
    said = one.init("--github-app", "--code", shown.headers["location"], status=1)
    assert "is not installed for acme/pricing" in said.out
    [app] = github_forge.sandbox.store.apps.apps
    key = one.secret("github-app")["private-key.pem"]
    assert "PRIVATE KEY" in key
    install(github_forge, app)

    other = one.init("--github-app", "--api-url", "http://127.0.0.1:9/api/v3", status=2)
    assert "has the key of an App at 127.0.0.1:" in other.err
    said = one.init("--github-app")
    assert one.values["config"]["github"]["app"] == {"app_id": app.id}
    assert one.values["config"]["github"]["account"] == "coding-agent[bot]"
    assert set(LABELS) <= set(one.labels())
    render(one.values_file)
    more = one.init("--github-app", "--webhook", "https://agent.example.com", status=1)
    assert "the App was registered without a webhook" in more.out
    files = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size < 2**20]
    secret_line = key.splitlines()[3]
    assert not [file for file in files if secret_line in file.read_text(errors="ignore")]
    assert secret_line not in said.out + said.err
