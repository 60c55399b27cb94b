"""The parts of a release that need no registry: version, notes, chart, commands of cosign."""

import json
from pathlib import Path

import pytest
import yaml
from coding_agent_release import chart, notes, signing, version
from coding_agent_release.__main__ import main
from coding_agent_release.errors import ReleaseError
from coding_agent_release.release import Release
from coding_agent_release.signing import Signer

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "coding-agent"
REGISTRY = "registry.example.com/team"
DIGESTS = {name: f"sha256:{number:064x}" for number, name in enumerate(chart.IMAGES)}
REFERENCES = {name: f"{REGISTRY}/coding-agent-{name}@{digest}" for name, digest in DIGESTS.items()}
CHANGELOG = """\
# Changelog

## 0.2.0 (unreleased)

- **New**: a thing.

## 0.1.0

- The first.
"""


@pytest.mark.parametrize("number", ["0.1.0", "1.20.3", "1.0.0-rc.2"])
def test_a_version_of_a_release(number: str) -> None:
    assert version.checked(number) == number


@pytest.mark.parametrize("text", ["", "v1.0.0", "1.0", "1.0.0-beta", "01.0.0", "1.0.0\n", "1.0.0-rc.01"])
def test_another_text_is_no_version(text: str) -> None:
    with pytest.raises(ReleaseError, match="VERSION="):
        version.checked(text)


def test_the_version_of_a_wheel() -> None:
    assert (version.of_python("1.0.0-rc.2"), version.of_python("1.0.0")) == ("1.0.0rc2", "1.0.0")


def test_the_version_of_the_chart_is_the_one_of_the_packages() -> None:
    number = version.of_chart((CHART / "Chart.yaml").read_text())
    for package in ("core", "forges", "plugin"):
        assert f'version = "{number}"' in (ROOT / package / "pyproject.toml").read_text()
    assert version.notes((ROOT / "CHANGELOG.md").read_text(), number)
    with pytest.raises(ReleaseError, match="no version"):
        version.of_chart("name: coding-agent\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("0.2.0", "- **New**: a thing.\n"),
        ("0.2.0-rc.1", "- **New**: a thing.\n"),
        ("0.1.0", "- The first.\n"),
    ],
)
def test_what_the_changelog_says_of_a_version(number: str, text: str) -> None:
    assert version.notes(CHANGELOG, number) == text


@pytest.mark.parametrize("changelog", [CHANGELOG, "## 0.3.0\n\n## 0.2.0\n\n- It.\n"])
def test_a_release_without_notes_is_refused(changelog: str) -> None:
    with pytest.raises(ReleaseError, match=r"below '## 0\.3\.0'"):
        version.notes(changelog, "0.3.0")


def test_the_chart_differs_in_version_registry_and_digests_only(tmp_path: Path) -> None:
    chart.write(CHART, tmp_path / "chart", version="0.2.0", registry=REGISTRY, digests=DIGESTS)
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    described |= {"version": "0.2.0", "appVersion": "0.2.0"}
    assert yaml.safe_load((tmp_path / "chart" / "Chart.yaml").read_text()) == described
    released = json.loads((tmp_path / "chart" / "files" / "release.json").read_text())
    assert released["registry"] == REGISTRY
    assert released["digests"]["coding-agent-egress"] == DIGESTS["egress"]
    copies = {file: tmp_path / "chart" / file.relative_to(CHART) for file in CHART.rglob("*")}
    changed = {
        str(file.relative_to(CHART))
        for file, copy in copies.items()
        if file.is_file() and file.read_bytes() != copy.read_bytes()
    }
    assert changed == {"Chart.yaml", "files/release.json"}


def test_a_chart_from_a_checkout_names_no_registry() -> None:
    released = json.loads((CHART / "files" / "release.json").read_text())
    assert released == {"registry": "", "digests": {}}


def test_the_chart_names_the_images_that_are_released() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sections = [section for section in values.values() if isinstance(section, dict)]
    named = {section["image"]["repository"] for section in sections if "image" in section}
    assert named == {chart.image_name(program) for program in chart.IMAGES}


@pytest.mark.parametrize("digest", ["", "sha256:12", "0.1.0"])
def test_a_chart_without_a_digest_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ReleaseError, match="the image egress is"):
        chart.write(
            *(CHART, tmp_path / "chart"),
            version="0.2.0",
            registry=REGISTRY,
            digests=DIGESTS | {"egress": digest},
        )


def test_who_must_have_signed() -> None:
    by_key = signing.by_key("cosign.pub", plain_http=False)
    assert signing.verify_command("host/a@sha256:0", by_key) == (
        "cosign verify --key cosign.pub --insecure-ignore-tlog=true host/a@sha256:0"
    )
    assert "--allow-http-registry" in signing.by_key("cosign.pub", plain_http=True)
    assert signing.by_workflow("acme/agent.x") == (
        *("--certificate-identity-regexp",),
        r"^https://github\.com/acme/agent\.x/\.github/workflows/release\.yaml@refs/tags/v",
        *("--certificate-oidc-issuer", "https://token.actions.githubusercontent.com"),
    )


def test_the_notes_say_what_was_published_and_how_to_verify_it() -> None:
    references = {"receiver": "host/r@sha256:1", "chart": "host/charts/c@sha256:2"}
    text = notes.write("- New.\n", references, flags=["--key", "k.pub"], sbom=True)
    assert text.startswith("- New.\n")
    assert "| receiver | `host/r@sha256:1` |" in text
    for reference in references.values():
        assert f"cosign verify --key k.pub {reference}\n" in text
    assert "verify-attestation --type spdxjson --key k.pub host/r@sha256:1\n" in text
    assert "verify-attestation --type spdxjson --key k.pub host/charts" not in text
    assert "verify-attestation" not in notes.write("", references, flags=[], sbom=False)


def release(tmp_path: Path, registry: str = REGISTRY, number: str = "0.1.0") -> Release:
    """A release that nothing can be built for: each program is missing."""
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    missing = tmp_path / "missing"
    signer = Signer(missing, tmp_path / "cosign.key", plain_http=False)
    return Release(tmp_path, tmp_path / "out", registry, number, missing, signer)


@pytest.mark.parametrize(
    "registry", ["", "https://registry.example.com", "registry.example.com/", "HOST/Team"]
)
def test_a_registry_is_a_host_and_a_path(tmp_path: Path, registry: str) -> None:
    with pytest.raises(ReleaseError, match="REGISTRY="):
        release(tmp_path, registry).make()


def test_a_release_needs_a_key_and_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    with pytest.raises(ReleaseError, match="make release-key"):
        release(tmp_path).make()
    (tmp_path / "cosign.key").touch()
    with pytest.raises(ReleaseError, match="COSIGN_PASSWORD is not set"):
        release(tmp_path).make()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cosign", "there.key"])
def test_a_key_is_made_under_a_new_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.key").touch()
    with pytest.raises(ReleaseError, match=f"KEY={tmp_path / name}: "):
        signing.make_key(tmp_path / "missing", tmp_path / name)


def test_the_workflow_gets_chart_and_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "references.json"
    start = ["coding_agent_release", "--version", "0.1.0-rc.1", "--out", str(tmp_path)]

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", [*start, *arguments, "--references", str(file)])
        return main()

    assert run("chart", "--registry", REGISTRY) == 1
    assert f"error: --references {file}" in capsys.readouterr().err
    file.write_text(json.dumps(REFERENCES))
    assert run("chart", "--registry", REGISTRY) == 0
    released = json.loads((tmp_path / "chart" / "coding-agent" / "files" / "release.json").read_text())
    assert released["digests"]["coding-agent-consumer"] == DIGESTS["consumer"]
    assert run("notes", "--repository", "acme/agent") == 0
    text = (tmp_path / "notes.md").read_text()
    assert all(f"{reference}\n" in text for reference in REFERENCES.values())
    assert "--certificate-identity-regexp" in text
