"""`kubectl agenttask doctor` on a release that `init` prepared, healthy and with each fault."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import yaml
from coding_agent_docs.blocks import blocks, matches
from coding_agent_docs.paths import DOCS
from coding_agent_testbed.forge import Flavour, ForgeServer
from coding_agent_testbed.forge.model import Role
from coding_agent_testbed.until import until

from tests.fixtures.crd import install as install_crd
from tests.fixtures.crd import of_november_28, older
from tests.fixtures.forge import BOT_TOKEN, REPOSITORY
from tests.fixtures.github_app import GRANTED, create_app, install, key_pair
from tests.fixtures.hook_receiver import HookReceiver
from tests.fixtures.model import API_KEY
from tests.integration.plugin.conftest import Plugin, Said
from tests.integration.plugin.newcomer import BOT, Newcomer, install_release, let_pods_run

QUICK_START = DOCS / "quick-start.md"


def doctor(newcomer: Newcomer, status: int) -> Said:
    return newcomer.plugin("doctor", status=status)


def assert_documented(newcomer: Newcomer, said: Said, number: int) -> None:
    """The quick start shows what the command prints, for GitHub and OpenAI."""
    if newcomer.forge.flavour is not Flavour.GITHUB:
        return
    shown = [block.text for block in blocks(QUICK_START) if block.text.startswith("ok ")][number]
    forge, model = f"127.0.0.1:{newcomer.forge.port}", urlsplit(newcomer.model.base_url).netloc
    text = said.out.replace(f"reach {forge}", "reach api.github.com:443").replace(forge, "github.com")
    text = text.replace(f"reach {model}", "reach api.openai.com:443").replace(model, "api.openai.com")
    text = text.replace("scripted", "gpt-4o").replace(newcomer.place.namespace, "coding-agent")
    text = text.replace(str(newcomer.values_file), "coding-agent-values.yaml")
    tokens = "5,000,000 tokens a task, 50,000,000 a repository and day, as the price is not known"
    text = text.replace(tokens, "5.00 USD a task, 50.00 USD a repository and day")
    # The test's namespace exists already.
    assert matches(shown.replace("created  namespace", "kept     namespace"), text), text


def test_a_healthy_release_has_nothing_wrong_and_each_fault_its_sentence(newcomer: Newcomer) -> None:
    newcomer.forge.push(REPOSITORY, "main", {"requirements.txt": ""})
    said = newcomer.init("--registry", "registry.example.com")
    assert_documented(newcomer, said, 0)
    release = install_release(newcomer.place, newcomer.values)
    said = doctor(newcomer, 1)
    assert all(re.search("0 of [12] ready", line) for line in said.wrong), "there is no node yet"
    let_pods_run(newcomer.place)
    said = doctor(newcomer, 0)
    assert {line.split()[0] for line in said.out.splitlines()} == {"ok", "off"}, said.out
    features = [line[9:].split("  ")[0] for line in said.out.splitlines() if line.startswith("off")]
    assert features == ["transcripts", "commands"], "there is no storage and no webhook"
    for text in (BOT, "agenttasks.coding-agent.dev v1alpha1", "coding-agent-operator: 1 of 1", "scripted at"):
        assert text in said.out
    assert BOT_TOKEN not in said.out
    assert API_KEY not in said.out

    token = f"{newcomer.forge.flavour.value}-token"
    user, roles = newcomer.forge.user(BOT), newcomer.forge.repository(REPOSITORY).roles
    faults: list[tuple[Callable[[], object], Callable[[], object], str]] = [
        (
            lambda: newcomer.write_secret(token, token="wrong"),
            lambda: newcomer.write_secret(token, token=BOT_TOKEN),
            f"the key `token` of the Secret `{token}`",
        ),
        (
            lambda: setattr(user, "token_expires_at", datetime.now(UTC).date()),
            lambda: setattr(user, "token_expires_at", None),
            "Check the token and its permissions",
        ),
        (
            lambda: setattr(user, "scopes", ("none",)),
            lambda: setattr(user, "scopes", None),
            "lacks the scope",
        ),
        (lambda: roles.update({BOT: Role.READ}), lambda: roles.update({BOT: Role.WRITE}), "may not push"),
        (
            lambda: newcomer.write_secret("model-key", **{"api-key": "sk-wrong-key"}),
            lambda: newcomer.write_secret("model-key", **{"api-key": API_KEY}),
            "the key `api-key` of the Secret `model-key`",
        ),
        (
            lambda: newcomer.write_secret("model-key", **{"api-key": ""}),
            lambda: newcomer.write_secret("model-key", **{"api-key": API_KEY}),
            "the Secret model-key has no key api-key, or it is empty",
        ),
    ]
    for break_it, repair, sentence in faults:
        break_it()
        said = doctor(newcomer, 1)
        line = said.only_wrong
        assert sentence in line
        assert "sk-wrong-key" not in line
        if "does not accept the key" in line:
            assert_documented(newcomer, said, 1)
        repair()

    definition: dict[str, str] = {}
    for crd in (older(), of_november_28()):
        newcomer.place.plane.apply(crd)
        [line] = until("an older CRD is said", lambda: newcomer.plugin("doctor", status=None).wrong)
        definition[line.partition("release: ")[2]] = line
    install_crd(newcomer.place.plane)
    earlier, november = definition
    for text in (
        "2 fields are missing (spec.title, status.queuePosition); ",
        "spec lacks the rule “spec is immutable",
        "spec.runner does not allow opencode",
        "The API server drops or refuses what programs of this release write",
    ):
        assert text in earlier
    assert "status.phase does not allow Starting" in november
    assert "kubectl apply --server-side --force-conflicts -f crds/agenttask.yaml" in november

    release.upgrade({"networkPolicy": {"model": {"ports": [443]}, "forge": {"ports": [443]}}})
    let_pods_run(newcomer.place)
    lines = doctor(newcomer, 1).wrong
    assert len(lines) == 2
    for value in ("networkPolicy.model.ports", "networkPolicy.forge.ports"):
        assert any(value in line for line in lines)

    release.upgrade()
    let_pods_run(newcomer.place)
    release.kubectl("delete", "rolebinding", "coding-agent-operator")
    # The API server takes note of the removal a moment later.
    [line] = until("a missing right is said", lambda: newcomer.plugin("doctor", status=None).wrong)
    assert "coding-agent-operator may not list agenttasks, patch agenttasks/status, create jobs" in line


def test_the_last_delivery_of_a_webhook_says_what_is_wrong(
    newcomer: Newcomer, hook_receiver: HookReceiver
) -> None:
    forge, url = newcomer.forge, f"https://agent.example.com/webhook/{newcomer.forge.flavour.value}"
    forge.run(lambda: forge.repository(REPOSITORY).roles.update({BOT: Role.ADMIN}))
    newcomer.init("--webhook", url)
    install_release(newcomer.place, newcomer.values)
    let_pods_run(newcomer.place)
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    if forge.flavour is Flavour.GITHUB:  # GitHub sends a ping at once, and nobody is at that address
        assert "the last delivery (ping) got 502: the forge cannot reach" in doctor(newcomer, 1).wrong[0]
    else:
        assert "no delivery is shown" in doctor(newcomer, 0).out
    [hook] = forge.sandbox.store.hooks
    hook_receiver.status = 401
    hook.url = hook_receiver.url
    forge.add_label(REPOSITORY, 1, "bug")
    forge.add_label(REPOSITORY, 1, "coding agent")
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    hook.url = url
    line = doctor(newcomer, 1).only_wrong
    assert "got 401: the secret at the forge is not the receiver's" in line
    assert "the Secret webhook-secret" in line


def test_a_namespace_without_a_release_is_said(plugin: Plugin) -> None:
    assert "has no release of the coding agent" in plugin("doctor", status=1).out


def test_a_github_app_and_each_fault_of_it_is_said(
    github_forge: ForgeServer, newcomer_at: Callable[[ForgeServer], Newcomer]
) -> None:
    newcomer = newcomer_at(github_forge)
    app = create_app(github_forge)
    installation = install(github_forge, app)
    newcomer.init()
    newcomer.place.plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "github-app", "namespace": newcomer.place.namespace},
            "stringData": {"private-key.pem": key_pair()[0]},
        }
    )
    values = newcomer.values
    values["secrets"].pop("github")
    values["secrets"]["githubApp"] = {"existingSecret": "github-app"}
    values["config"]["github"]["app"] = {"app_id": app.id}
    newcomer.values_file.write_text(yaml.safe_dump(values))
    install_release(newcomer.place, newcomer.values)
    let_pods_run(newcomer.place)
    asked = ("doctor", "--repo", REPOSITORY)
    assert "it may work in acme/pricing" in newcomer.plugin(*asked).out
    faults: list[tuple[Callable[[], object], Callable[[], object], str]] = [
        (
            lambda: setattr(installation, "suspended_at", datetime.now(UTC)),
            lambda: setattr(installation, "suspended_at", None),
            "for acme/pricing is suspended. Unsuspend it",
        ),
        (
            lambda: setattr(installation, "permissions", {**GRANTED, "contents": "read"}),
            lambda: setattr(installation, "permissions", GRANTED),
            "lacks the permissions Contents (write)",
        ),
        (
            lambda: setattr(installation, "repositories", ["other"]),
            lambda: setattr(installation, "repositories", None),
            "is not installed for acme/pricing",
        ),
        (
            lambda: github_forge.set_clock(900),
            lambda: github_forge.set_clock(0),
            "the clock of this machine is wrong: it is 900 s behind",
        ),
    ]
    for break_it, repair, sentence in faults:
        break_it()
        line = newcomer.plugin(*asked, status=1).only_wrong
        # The clocks are compared through an answer, whose way takes time.
        assert sentence in re.sub(r"(89\d|90\d) s", "900 s", line)
        repair()
    newcomer.write_secret("github-app", **{"private-key.pem": key_pair(1)[0]})
    line = newcomer.plugin(*asked, status=1).only_wrong
    assert "does not accept the private key of GitHub App" in line
    assert "private-key.pem in the Secret github-app" in line
