"""Every relative link of the documentation leads somewhere."""

from pathlib import Path

from coding_agent_docs.links import anchors, dead_links
from coding_agent_docs.paths import pages


def test_no_link_of_a_page_is_dead() -> None:
    assert {str(page): dead for page in pages() if (dead := list(dead_links(page)))} == {}


def test_what_is_dead(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# There\n## It is `x.y`, too\n## There\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#there-1) [c](there.md#it-is-xy-too) [d](https://example.com/x)\n"
        "`[e](no.md)`\n"
        "[f](gone.md) [g](there.md#gone) ![h](gone.png) [i](#gone)\n"
    )
    assert list(dead_links(page)) == ["gone.md", "there.md#gone", "gone.png", "#gone"]
    assert anchors(tmp_path / "there.md") == {"there", "there-1", "it-is-xy-too"}
