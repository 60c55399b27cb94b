"""What makes this a project that others may use and change: license, forms, and a workflow that runs CI."""

from __future__ import annotations

import re
import tomllib

import yaml
from coding_agent_docs.paths import ROOT

MANIFESTS = [ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("dev/*/pyproject.toml")]


def test_the_license_is_apache_2_and_every_package_chart_and_image_names_it() -> None:
    assert (
        "Apache License\n                           Version 2.0, January 2004"
        in (ROOT / "LICENSE").read_text()
    )
    assert len(MANIFESTS) >= 13
    for file in MANIFESTS:
        assert tomllib.loads(file.read_text())["project"]["license"] == "Apache-2.0", file
    chart = yaml.safe_load((ROOT / "charts" / "coding-agent" / "Chart.yaml").read_text())
    assert chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    texts = [file.read_text() for file in ROOT.glob("Dockerfile*")]
    titles = sum(text.count("org.opencontainers.image.title=") for text in texts)
    licenses = sum(text.count('org.opencontainers.image.licenses="Apache-2.0"') for text in texts)
    assert titles == licenses == 6


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert any(re.search(r"(^| )\.ci/run$", command) for command in commands)
    assert workflow["permissions"] == {"contents": "read"}
