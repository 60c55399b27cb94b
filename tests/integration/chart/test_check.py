"""The hook reads the settings that the release would have, and names all that are wrong at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import CHART, render

ROOT = CHART.parents[1]
REQUIRED = CHART / "ci" / "required-values.yaml"
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]


def jobs(config: dict[str, Any]) -> list[dict[str, Any]]:
    objects = render(REQUIRED, values={"config": config})
    return [one for one in objects if one["kind"] == "Job"]


def check(config: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Run what the Job runs, with the settings that it gets; its exit status and what it prints."""
    [job] = jobs(config)
    template = job["spec"]["template"]
    file = folder / "config.yaml"
    file.write_text(template["metadata"]["annotations"]["coding-agent.dev/config"])
    for container in template["spec"]["containers"]:
        assert container["args"] == ["--mode", "check"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--mode", "check"],
        env={"PATH": os.environ["PATH"], "CONFIG_FILE": str(file)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_right_settings_pass_and_all_wrong_ones_are_named_at_once(tmp_path: Path) -> None:
    status, text = check({}, tmp_path)
    assert status == 0, text
    # No schema can compare two currencies, or say what a network is.
    wrong = {
        "budgets": {"task": {"amount": 1, "currency": "USD"}, "repository": {"amount": 9, "currency": "EUR"}},
        "webhook": {"allowed_networks": ["10.0.0.0/8", "somewhere"]},
    }
    status, text = check(wrong, tmp_path)
    assert status == 78
    assert "budgets are given in EUR and in USD" in text
    assert "'somewhere' is not a network" in text
    assert "2 errors" in text


def test_other_settings_get_another_job_because_a_job_cannot_be_changed() -> None:
    [one], [same], [other] = jobs({}), jobs({}), jobs({"authorize": "triage"})
    assert one == same
    assert one["metadata"]["name"] != other["metadata"]["name"]
