"""`make release` to a real registry: digests, signatures, the packages of an image, chart and plugin."""

import base64
import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from coding_agent_release.chart import IMAGES

from tests.chart.helm import helm, objects_of
from tests.sweep.release.conftest import ROOT, VERSION, Published, shell

# Time for what may have to be built first.
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_linux,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("node"),  # the tests of the release on a node use the same release
]

OPERATOR = "coding-agent-operator"


def test_the_registry_has_what_the_release_names(published: Published) -> None:
    assert set(published.references) == {*IMAGES, "chart"}
    for name, reference in published.references.items():
        repository, digest = reference.removeprefix(f"{published.registry.host}/").split("@")
        assert repository == ("charts/coding-agent" if name == "chart" else f"coding-agent-{name}")
        assert published.registry.digest(repository, VERSION) == digest


def test_the_chart_names_each_image_by_its_digest(published: Published) -> None:
    name, digest = published.references["chart"].split("@")
    text = helm(
        *("template", "coding-agent", f"oci://{name}@{digest}", "--plain-http"),
        *("--set", "egress.enabled=true,userConfig.enabled=true"),
    )
    images = {
        container["image"]
        for object_ in objects_of(text)
        if object_["kind"] in ("Deployment", "CronJob")
        for container in pod_of(object_)["containers"]
    }
    # That of attempts in the settings, and that of the check of the settings.
    [config] = set(re.findall(r"^ +image: (\S+coding-agent-consumer\S+)$", text, re.MULTILINE))
    assert images | {config} == {published.references[program] for program in IMAGES}


def pod_of(object_: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    """The pod's description in a Deployment or a CronJob."""
    spec = object_["spec"]
    assert isinstance(spec, dict)
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    found: dict[str, list[dict[str, str]]] = spec["template"]["spec"]
    return found


def test_the_printed_commands_verify_all(published: Published, tmp_path: Path) -> None:
    for name in published.references:
        done = shell(published.verify_command(name), tmp_path)
        assert done.returncode == 0, done.stderr


def test_another_key_verifies_nothing(published: Published, tmp_path: Path) -> None:
    made = shell("COSIGN_PASSWORD= cosign generate-key-pair", tmp_path)
    assert made.returncode == 0, made.stderr
    command = published.verify_command("operator").replace(str(published.key), "cosign.pub")
    refused = shell(command, tmp_path)
    assert refused.returncode != 0
    assert "signature" in refused.stderr


def test_a_changed_image_is_refused(published: Published, tmp_path: Path) -> None:
    registry = published.registry
    name, digest = published.references["operator"].split("@")
    manifest = registry.manifest(OPERATOR, digest)
    changed = {**manifest, "annotations": {"changed": "yes"}}
    # A digest has one content.
    assert registry.put(OPERATOR, digest, changed).status_code == 400
    # A tag can be moved. Then what it names has no signature.
    assert registry.put(OPERATOR, "moved", changed).status_code == 201
    signed = published.verify_command("operator")
    refused = shell(signed.replace(f"{name}@{digest}", f"{name}:moved"), tmp_path)
    assert refused.returncode != 0
    assert "no signatures found" in refused.stderr


def test_the_signed_list_has_the_packages_of_the_image(published: Published, tmp_path: Path) -> None:
    command = published.verify_command("operator").replace(
        "cosign verify", "cosign verify-attestation --type spdxjson"
    )
    assert command in (published.out / "notes.md").read_text()
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    statement = json.loads(base64.b64decode(json.loads(done.stdout)["payload"]))
    found = {package["name"]: package["versionInfo"] for package in statement["predicate"]["packages"]}
    lock = (ROOT / "requirements" / "operator.txt").read_text()
    pinned = dict(re.findall(r"^(\S+?)==(\S+?)(?: ;.*)? \\$", lock, re.MULTILINE))
    assert found["kopf"] == pinned["kopf"]
    assert found["coding-agent-operator"] == VERSION
    assert "libc6" in found
    assert not [name for name in found if "kubectl" in name]  # the plugin is no part of this image


def test_krew_gets_a_plugin_that_runs(published: Published, tmp_path: Path) -> None:
    manifest = yaml.safe_load((published.out / "agenttask.yaml").read_text())
    [platform] = manifest["spec"]["platforms"]
    archive = published.out / platform["uri"].rpartition("/")[2]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "store", filter="data")
    # As Krew does: a link in a folder on PATH.
    link = tmp_path / "kubectl-agenttask"
    link.symlink_to(tmp_path / "store" / platform["bin"])
    uv = str(ROOT / ".uv" / "bin")
    done = shell(f"PATH=$PATH:{uv} {link} --help", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cancel" in done.stdout
