"""The marks above the documentation's blocks, and the comparison with what was printed."""

from pathlib import Path

import pytest
from coding_agent_docs.blocks import blocks, matches, script

PAGE = """\
Text.

```yaml
a: 1
```

<!-- run: checkout exit=78 -->
```console
$ one \\
    two
printed
$ three
```

<!-- prints -->
```
printed
```
"""


def test_blocks_know_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    plain, run, printed = blocks(page)
    assert (plain.language, plain.word, plain.text, plain.line) == ("yaml", "", "a: 1\n", 3)
    assert (run.word, run.what, run.status) == ("run", "checkout", 78)
    assert script(run) == "one \\\n    two\nthree\n"
    assert (printed.word, printed.language) == ("prints", "")


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a b", "a   b\n", True),
        ("a b", "a c\n", False),
        ("a … c", "a one two c\n", True),
        ("a\n…\nc", "a\none\ntwo\nc\n", True),
        ("a\n…\nc", "a\none\nd\n", False),
        ("a.c", "abc\n", False),
        ("a", "a\nb\n", False),
    ],
)
def test_what_is_printed(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
