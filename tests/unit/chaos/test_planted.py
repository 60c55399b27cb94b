"""The defects that are planted in the product: each can be planted, and each has a run that can show it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.judging import BROKEN, CLEAN, VIOLATED
from tests.chaos.people import KINDS as ACTS
from tests.chaos.planted import PLANTED, Planted, chosen
from tests.chaos.planting import Finding, copy_product, trials
from tests.chaos.promises import KINDS

NAMES = {
    "drop before store",
    "ack before store",
    "name by delivery id",
    "poll without dedupe",
    "no fence",
    "forgotten lock",
    "push without a check",
    "event eaten",
    "limit off by one",
    "relabel within the second",
    "command ignored",
    "comment twice",
}


def test_each_of_the_twelve_is_there() -> None:
    assert set(PLANTED) == NAMES
    assert (CLEAN, VIOLATED, BROKEN) == (0, 1, 2)  # the worst of several runs is the largest


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_its_code_is_there_exactly_once_and_its_run_can_show_it(planted: Planted) -> None:
    assert planted.fits()
    assert planted.mode in ("kubernetes", "rabbitmq")
    assert planted.violations
    assert planted.violations <= set(KINDS)
    assert any(ACTS[act.kind].steps[act.step].applies for act in planted.schedule.acts)


def test_it_is_planted_in_a_copy_that_runs_and_never_in_the_tree(tmp_path: Path) -> None:
    copy_product(tmp_path)
    assert (tmp_path / "main.py").exists()
    for planted in PLANTED.values():
        planted.plant(tmp_path)
        compile((tmp_path / planted.file).read_text(), planted.file, "exec")
        assert planted.fits()
        assert not planted.fits(tmp_path) or planted.code in planted.defect


def test_a_control_has_all_acts_and_faults_of_a_world_and_each_item_is_opened_once() -> None:
    [control] = trials(chosen("rabbitmq"), control=True)
    alone = list(trials(chosen("rabbitmq"), control=False))
    assert control.defect is None
    assert not control.violations
    acts = control.schedule.acts
    assert len(acts) == sum(len(trial.schedule.acts) for trial in alone)
    assert sorted(fault.id for fault in control.schedule.faults) == [3, 4, 5]
    opened = Counter(act.item for act in acts if ACTS[act.kind].opens)
    assert set(opened.values()) == {1}
    assert set(opened) == {act.item for act in acts}
    assert all(act.text.startswith(f"{act.item} ") for act in acts if ACTS[act.kind].opens)


def test_no_two_faults_of_the_table_have_one_id() -> None:
    ids = [fault.id for planted in PLANTED.values() for fault in planted.schedule.faults]
    assert len(ids) == len(set(ids))


def test_a_finding_counts_only_with_every_kind_that_was_expected() -> None:
    found = Finding({"lost": 3, "disagreement": 1})
    assert found.text(frozenset({"lost"})) == "found: disagreement (1), lost (3)"
    assert found.text(frozenset({"lost", "stuck"})) == "NOT FOUND: disagreement (1), lost (3)"
    assert not found.has(frozenset())
    assert Finding({}).has(frozenset())
    assert not Finding({}).has(frozenset({"lost"}))
    assert not Finding({"lost": 3}, broken=True).has(frozenset({"lost"}))
