"""What the command line takes, and what the commands carry over from one task to the next."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_agenttask.__main__ import main, parser
from kubectl_agenttask.commands import OPTIONS

CRD = Path(__file__).resolve().parents[3] / "crds" / "agenttask.yaml"
OF_THE_ITEM = {"source", "user", "title", "url", "trusted"}
OF_ONE_RUN = {"trigger", "run", "cancel", "suspend", "priority"}


def test_retry_keeps_every_option_of_a_task() -> None:
    """A field that the CRD gains is either an option that a further run keeps, or named above."""
    [version] = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(OPTIONS) == set(fields) - OF_THE_ITEM - OF_ONE_RUN


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("2.50 USD", {"amount": "2.50", "currency": "USD"}),
        ("3EUR", {"amount": "3", "currency": "EUR"}),
        (" 200000 tokens ", {"tokens": 200_000}),
        ("USD", None),
        ("2.50", None),
        ("2 usd", None),
        ("1.5 tokens", None),
        ("1.2.3 USD", None),
        ("-1 USD", None),
    ],
)
def test_a_budget_on_the_command_line(
    text: str, budget: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "https://github.com/o/r/issues/1", f"--budget={text}"]
    if budget is None:
        with pytest.raises(SystemExit):
            parser().parse_args(given)
        assert "write for example '2.50 USD' or '200000 tokens'" in capsys.readouterr().err
    else:
        assert parser().parse_args(given).budget.to_wire() == budget


def test_a_kubeconfig_that_cannot_be_used_is_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--kubeconfig", str(tmp_path / "none")]) == 78
    (tmp_path / "broken").write_text("contexts: [")
    assert main(["list", "--kubeconfig", str(tmp_path / "broken")]) == 78
    assert capsys.readouterr().err.count("no usable kubeconfig") == 2
