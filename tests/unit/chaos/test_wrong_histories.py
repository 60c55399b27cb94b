"""The judge finds wrong histories whose author had not read it, and finds nothing in the clean ones."""

from pathlib import Path

import pytest

from tests.chaos.judging import read_records, read_setup, verdict_of
from tests.unit.chaos.wrong_histories import KUBERNETES, RABBITMQ, WRONG, Change, Changed


@pytest.mark.parametrize("folder", [RABBITMQ, KUBERNETES], ids=lambda folder: folder.name)
def test_a_clean_history_has_no_violation(folder: Path) -> None:
    setup, records = read_setup(folder), read_records(folder)
    assert not verdict_of(setup, Changed(records).records()).violations


@pytest.mark.parametrize(("folder", "change"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_history_has_a_violation(folder: Path, change: Change) -> None:
    changed = Changed(read_records(folder))
    change(changed)
    assert verdict_of(read_setup(folder), changed.records()).violations
