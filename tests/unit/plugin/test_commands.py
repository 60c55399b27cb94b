"""What the commands carry over from one task to the next."""

from __future__ import annotations

from pathlib import Path

import yaml
from kubectl_agenttask.commands import OPTIONS

CRD = Path(__file__).resolve().parents[3] / "crds" / "agenttask.yaml"
OF_THE_ITEM = {"source", "user", "title", "url", "trusted"}
OF_ONE_RUN = {"trigger", "run", "cancel", "suspend", "priority"}


def test_retry_keeps_every_option_of_a_task() -> None:
    """A field that the CRD gains is either an option that a further run keeps, or named above."""
    [version] = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(OPTIONS) == set(fields) - OF_THE_ITEM - OF_ONE_RUN
