"""What the agent is shown: images within bounds, and which files are instructions of which branch."""

from typing import Any

import pytest
from coding_agent_consumer.item.background import (
    LARGEST_IMAGE,
    MOST_IMAGE_BYTES,
    MOST_IMAGES,
    MOST_IMAGES_TRIED,
    Conversation,
    image_links,
    media_type_of,
    project_branch,
    read_images,
    select,
)
from coding_agent_consumer.repository.clone import TreeEntry, parse_tree
from coding_agent_consumer.repository.commits import commit_message
from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.values import BranchFacts, CommitIdentity
from coding_agent_core.platforms.markdown import BREAK
from coding_agent_core.task.model import Item

from tests.unit.consumer.making import details

PNG = b"\x89PNG\r\n\x1a\n"


class Files:
    """The forge as far as it is asked: every link that begins with `/` is an attachment."""

    def __init__(self, data: bytes = PNG) -> None:
        self.data = data
        self.asked: list[tuple[str, int]] = []

    async def attachment(self, item: Item, link: str, *, limit: int) -> bytes | None:
        if not link.startswith("/"):
            return None
        self.asked.append((link, limit))
        if len(self.data) > limit:
            raise ForgeError("too large")
        return self.data


async def read(files: Files, body: str) -> list[str]:
    forge: Any = files
    return [image.link for image in await read_images(forge, Conversation(details(body=body)))]


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("See ![a screen](https://h/a.png).", ["https://h/a.png"]),
        ('![](/uploads/1/a.png "title"){width=60%}', ["/uploads/1/a.png"]),
        ("![x](<https://h/a.png>)", ["https://h/a.png"]),
        ('<img width="600" alt="x" src="https://h/a?b=1&amp;c=2" />', ["https://h/a?b=1&c=2"]),
        ("<IMG SRC='https://h/a.png'>", ["https://h/a.png"]),
        ('![a](/1) and <img src="/2"> and ![b](/3)', ["/1", "/2", "/3"]),
        ("[a link](https://h/a.png) and https://h/b.png ![", []),
    ],
)
def test_links_of_images(text: str, links: list[str]) -> None:
    assert list(image_links(text)) == links


@pytest.mark.parametrize("text", ["![" * 50_000, "<img " * 50_000, "![](" * 50_000, "<img src='" * 30_000])
@pytest.mark.timeout(20)
def test_a_hostile_text_is_read_in_time(text: str) -> None:
    assert len(list(image_links(text))) < 50_001


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_the_type_is_read_from_the_data(data: bytes, kind: str | None) -> None:
    assert media_type_of(data) == kind


async def test_other_addresses_are_not_read_and_each_image_once() -> None:
    files = Files()
    body = "![](https://evil.example/a.png) ![](/a) ![](/a) ![](/b)"
    assert await read(files, body) == ["/a", "/b"]
    assert [link for link, _ in files.asked] == ["/a", "/b"]


async def test_their_number_and_size_are_bounded() -> None:
    files, broken, many = Files(), Files(b"%PDF"), " ".join(f"![](/{number})" for number in range(50))
    assert len(await read(files, many)) == len(files.asked) == MOST_IMAGES
    assert await read(broken, many) == []
    assert len(broken.asked) == MOST_IMAGES_TRIED
    assert await read(Files(PNG + bytes(LARGEST_IMAGE)), "![](/a)") == []
    large = Files(PNG + bytes(LARGEST_IMAGE - 100))
    assert len(await read(large, many)) == MOST_IMAGE_BYTES // LARGEST_IMAGE
    assert large.asked[0][1] == LARGEST_IMAGE > large.asked[-1][1]


def entry(path: str, mode: str = "100644") -> TreeEntry:
    return TreeEntry(mode, "0" * 40, path)


@pytest.mark.parametrize(
    ("base", "default", "protected", "expected"),
    [
        ("main", "main", False, "main"),
        ("main", "main", True, "main"),
        ("attic", "main", False, "main"),
        ("release/1", "main", True, "release/1"),
        ("coding-agent/issue-1", "main", False, "main"),
        ("coding-agent/issue-1", "main", True, "main"),
        ("main", "trunk", False, "trunk"),
        ("main", None, False, None),
    ],
)
def test_the_branch_that_counts_for_a_change(
    base: str, default: str | None, protected: bool, expected: str | None
) -> None:
    assert project_branch(base, BranchFacts(default, protected), "coding-agent/") == expected


def test_those_of_the_root_come_first_then_nested_ones_from_the_root_down() -> None:
    paths = [
        "web/deep/AGENTS.md",
        "api/AGENTS.md",
        ".github/copilot-instructions.md",
        "web/AGENTS.md",
        "GEMINI.md",
        "CLAUDE.md",
        "AGENTS.md",
        "README.md",
        "docs/CLAUDE.md",
        "docs/MYAGENTS.md",
    ]
    assert [found.path for found in select(map(entry, paths))] == [
        "AGENTS.md",
        "CLAUDE.md",
        "GEMINI.md",
        ".github/copilot-instructions.md",
        "api/AGENTS.md",
        "web/AGENTS.md",
        "web/deep/AGENTS.md",
    ]


def test_links_and_submodules_are_left_out() -> None:
    tree = [entry("AGENTS.md", "120000"), entry("CLAUDE.md"), entry("sub/AGENTS.md", "160000")]
    assert [found.path for found in select(tree)] == ["CLAUDE.md"]


def test_a_tree_is_read_whatever_its_names_hold() -> None:
    listing = b"100644 blob aa\tone\x00120000 blob bb\ta\ttab\nline\x00160000 commit cc\tsub\x00"
    assert parse_tree(listing) == [
        TreeEntry("100644", "aa", "one"),
        TreeEntry("120000", "bb", "a\ttab\nline"),
        TreeEntry("160000", "cc", "sub"),
    ]


ALICE = CommitIdentity("Alice", "7+alice@users.noreply.github.com")
FOOTER = "For o/r#7: https://forge.test/o/r/7"


def message(summary: str, *, finished: bool = True, asked_by: CommitIdentity | None = None) -> str:
    return commit_message(
        summary, finished=finished, item_title="Prices are wrong", footer=FOOTER, asked_by=asked_by
    )


def test_title_summary_item_and_who_asked() -> None:
    assert message("Start the discount at the step. It began one later.", asked_by=ALICE) == (
        "Start the discount at the step\n\n"
        "> Start the discount at the step. It began one later.\n\n"
        f"{FOOTER}\n\n"
        "Co-authored-by: Alice <7+alice@users.noreply.github.com>\n"
    )


@pytest.mark.parametrize(
    ("summary", "subject"),
    [
        ("Fix `bulk_discount`.", "Fix `bulk_discount`"),
        ("\n\n## Summary of v1.2\n\ntext", "Summary of v1.2"),
        ("- **Round** the price\n- Test it", "Round the price"),
        ("---\nRound!", "Round!"),
        ("", "Prices are wrong"),
        ("word " * 40, "word " * 13 + "word…"),
        ("x" * 100, "x" * 71 + "…"),
        (f"Start the discount at the step itself: with {'x' * 60}", "Start the discount at the step itself"),
    ],
)
def test_the_title_is_the_first_sentence_cut_to_72(summary: str, subject: str) -> None:
    first = message(summary).partition("\n")[0]
    assert first == subject
    assert len(first) <= 72


def test_unfinished_work_is_named_after_the_item() -> None:
    assert message("", finished=False) == f"Work so far on Prices are wrong\n\n{FOOTER}\n"


@pytest.mark.parametrize("summary", ["[skip ci] all", "Closes #1 and PROJ-1 #close", "Tell @all"])
def test_nothing_in_it_is_executed(summary: str) -> None:
    text = message(summary, asked_by=CommitIdentity("[skip ci] <x>\nSigned-off-by: eve", "a@b"))
    for active in ("[skip", "#1", "#close", "@all", "\nSigned-off-by"):
        assert active not in text
    assert f"Co-authored-by: [{BREAK}skip ci] x Signed-off-by: eve <a@b>\n" in text
