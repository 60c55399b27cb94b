"""What a further forge needs: `parts` is the list. Other code names a forge only for what it alone has."""

import ast
import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from coding_agent_core.platforms.facts import ItemKind, PlatformFacts
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.settings.credentials import CHART_VALUES
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.model import SECRET_VARIABLES, VARIABLES, Settings
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.setup import ForgeSetup
from coding_agent_forges.webhooks.events import PlatformWebhooks

from tests.chart.helm import helm

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[3]
CORE = Path("core/src/coding_agent_core")
FORGES_FOLDER = Path("forges/src/coding_agent_forges")
CRD = Path("crds/agenttask.yaml")
FORGES = Path("charts/coding-agent/files/forges.json")
_FIELDS = ", ".join(
    field.name for field in dataclasses.fields(PlatformFacts) if field.default is dataclasses.MISSING
)
_WEBHOOKS = {*PlatformWebhooks.__annotations__} | {
    name for name, value in vars(PlatformWebhooks).items() if callable(value) and not name.startswith("_")
}
_NAMES = ", ".join(name for name, kind in Forge.__annotations__.items() if kind.startswith("ClassVar"))
_METHODS = ", ".join(sorted(Forge.__abstractmethods__))
_SETUP = ", ".join(sorted(ForgeSetup.__abstractmethods__))


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that a forge has to have.

    Attributes:
        file: below the repository.
        name: of what has to be in the file.
        what: it is, for the person who adds it.
    """

    file: Path
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}: {self.what}"


def parts(platform: str) -> list[Part]:
    """Everything that a forge needs. Documents and the sandbox forge come in addition."""
    folder = FORGES_FOLDER / platform
    return [
        Part(CORE / "platforms" / "registry.py", platform, "a line in Platform"),
        Part(CRD, platform, "a value of spec.source.platform"),
        Part(folder / "facts.py", "FACTS", f"PlatformFacts with {_FIELDS}"),
        Part(folder / "settings.py", "SECTION", "a ForgeSettings with api_url, SCOPE and narrowed"),
        Part(folder / "settings.py", "WEBHOOK_SECTION", "a Section with the secret that the facts name"),
        *(Part(folder / "webhook.py", name, "as in PlatformWebhooks") for name in sorted(_WEBHOOKS)),
        Part(folder / "client.py", "CLIENT", f"a Forge with {_NAMES}, and the methods {_METHODS}"),
        Part(folder / "setup.py", "SETUP", f"a ForgeSetup with the methods {_SETUP}"),
        Part(folder / "chart.yaml", "narrowed_by", "settings that narrow a poll"),
        Part(folder / "chart.yaml", "setup", "how people set up its webhook"),
        Part(folder / "chart.yaml", "sample", "the webhook that helm test sends"),
        Part(FORGES, platform, "run `python charts/schema.py`"),
    ]


def missing(root: Path, platform: str) -> list[str]:
    """The parts that a forge lacks."""
    return [str(part) for part in parts(platform) if part.name not in set(_names_in(root / part.file))]


def _names_in(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if file.name == CRD.name:
        found = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        yield from found["spec"]["properties"]["source"]["properties"]["platform"]["enum"]
    elif file.suffix in (".json", ".yaml"):
        yield from yaml.safe_load(text) or {}
    else:
        for node in ast.walk(ast.parse(text)):
            match node:
                case (
                    ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name)
                ):
                    yield name
                case ast.Constant(value=str(value)):
                    yield value


@pytest.mark.parametrize("platform", Platform)
def test_a_registered_forge_has_every_part(platform: Platform) -> None:
    lacks = missing(ROOT, platform)
    assert not lacks, "\n".join([f"{platform} lacks:", *lacks])
    facts, settings = FACTS[platform], Settings()
    assert set(facts.keys) == set(ItemKind)
    assert settings.forge(platform).host == facts.web_host
    assert not settings.webhook.secret(platform).configured
    secrets = {VARIABLES[name] for name in SECRET_VARIABLES}
    assert {(platform, "personal_access_token"), ("webhook", platform, facts.webhook_setting)} <= secrets
    for setting in (f"{platform}.personal_access_token", f"webhook.{platform}.{facts.webhook_setting}"):
        assert setting in CHART_VALUES


@pytest.mark.parametrize("platform", Platform)
def test_its_modules_have_what_the_programs_call(platform: Platform) -> None:
    webhooks = forge_module(platform, "webhook")
    for name in sorted(_WEBHOOKS - {*PlatformWebhooks.__annotations__}):
        taken = list(inspect.signature(getattr(PlatformWebhooks, name)).parameters)
        assert ["self", *inspect.signature(getattr(webhooks, name)).parameters] == taken
    client = forge_module(platform, "client").CLIENT
    assert issubclass(client, Forge)
    assert not inspect.isabstract(client)
    setup = forge_module(platform, "setup").SETUP
    assert issubclass(setup, ForgeSetup)
    assert not inspect.isabstract(setup)
    assert issubclass(forge_module(platform, "settings").SECTION, ForgeSettings)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The repository's files that a forge is added to."""
    for folder in (CORE, FORGES_FOLDER, Path("crds"), Path("charts")):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_new_forge_lacks_every_part_of_the_list(tree: Path) -> None:
    (tree / FORGES_FOLDER / "example").mkdir()
    assert missing(tree, "example") == [str(part) for part in parts("example")]


def _add_example(tree: Path, original: Platform) -> None:
    """Add a forge that is another one in all but its name: its folder, its line, its value in the CRD."""
    folder, title = tree / FORGES_FOLDER / "example", FACTS[original].title
    shutil.copytree(tree / FORGES_FOLDER / original, folder)
    for file in folder.iterdir():
        text = (
            file.read_text(encoding="utf-8").replace(original.upper(), "EXAMPLE").replace(original, "example")
        )
        text = text.replace(title, "Example").replace(title.capitalize(), "Example")
        file.write_text(text, encoding="utf-8")
    registry = tree / CORE / "platforms" / "registry.py"
    line = '    GITEA = "gitea"\n'
    registry.write_text(registry.read_text().replace(line, f'{line}    EXAMPLE = "example"\n'))
    for crd in (tree / CRD, tree / "charts" / "coding-agent" / "files" / CRD):
        known = ", ".join(Platform)
        crd.write_text(crd.read_text().replace(f"enum: [{known}]", f"enum: [{known}, example]"))


def test_a_third_forge_is_its_folder_and_two_lines(tree: Path, tmp_path: Path) -> None:
    _add_example(tree, Platform.GITLAB)
    environment = {**os.environ, "PYTHONPATH": f"{tree / CORE.parent}:{tree / FORGES_FOLDER.parent}"}

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], env=environment, check=True, timeout=120, cwd=tree)

    python("charts/schema.py")
    assert missing(tree, "example") == []
    place = tmp_path / "place"
    place.mkdir()
    (place / "config.yaml").write_text("{}\n")
    for name in ("forges.json", "selftest.py"):
        shutil.copy(tree / FORGES.with_name(name), place)
    python(str(Path(__file__).with_name("third_forge.py")), str(place))
    values = {
        "secrets": {"example": {"token": "a-token"}, "model": {"apiKey": "a-key"}},
        "config": {"example": {"assignee": "coding-agent-bot"}},
        "polling": {"enabled": True},
        "userConfig": {"enabled": True, "users": {"example": {"alice": {}}}},
    }
    chart = str(tree / "charts" / "coding-agent")
    made = helm("template", "agent", chart, "--values", "-", stdin=yaml.safe_dump(values))
    names = {document["metadata"]["name"] for document in yaml.safe_load_all(made) if document}
    assert {"agent-coding-agent-example", "agent-coding-agent-poller-example"} <= names
    for piece in ("webhook/example", "credentials/example-token", "example.alice.yaml", '"X-Example-Event'):
        assert piece in made.replace('\\"', '"'), piece
    assert "github" not in json.dumps(sorted(names))
