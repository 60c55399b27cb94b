"""The documented values are rendered by helm, and the documented commands name what is rendered."""

from pathlib import Path

import pytest
from coding_agent_docs.blocks import Block, blocks
from coding_agent_docs.paths import DOCS, ROOT, pages

from tests.chart.helm import render

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

BASE = next(block.text for block in blocks(DOCS / "install.md") if block.what == "my-values.yaml")
VALUES = [
    block
    for page in pages()
    for block in blocks(page)
    if block.word in ("values", "add") or block.what.endswith("values.yaml")
]


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.mark.parametrize("block", VALUES, ids=place)
def test_documented_values_are_rendered(block: Block, tmp_path: Path) -> None:
    files = [tmp_path / "my-values.yaml", tmp_path / "more.yaml"]
    files[0].write_text(BASE)
    files[1].write_text(block.text)
    alone = block.word == "file"
    assert render(*(files[1:] if alone else files), namespace="coding-agent")
