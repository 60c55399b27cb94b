"""Each target holds for its corpus: real inputs, and those that `make fuzz` found by coverage.

`make fuzz` searches for more. This replay needs no fuzzer and takes a few seconds.
"""

from __future__ import annotations

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, inputs


@pytest.mark.parametrize("name", TARGETS)
def test_the_properties_hold_for_the_corpus(name: str) -> None:
    accepted = {file: TARGETS[name](data) for file, data in inputs(name).items()}
    assert any(accepted.values()), "not all inputs are refused"


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(TARGETS)
    assert len(files) <= 64
    assert max(path.stat().st_size for path in files) <= 2048
