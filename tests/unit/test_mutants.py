"""The defects of `make mutants`: each can be planted in the code as it is now."""

from __future__ import annotations

import pytest

from tests.mutants import Mutant, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: f"{mutant.file}: {mutant.code}")
def test_its_code_is_there_exactly_once(mutant: Mutant) -> None:
    assert mutant.fits()
