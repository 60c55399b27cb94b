"""The demo with the small real model refuses what the model cannot do."""

import sys

import pytest
from coding_agent_demo.__main__ import main


@pytest.mark.parametrize("choice", ["--forge=gitea", "--runner=codex", "--story=review"])
def test_what_the_small_model_cannot_do_is_refused(
    choice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make demo", "--model=local", choice])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"MODEL=local does not go with {choice.partition('=')[2]}" in capsys.readouterr().err
