"""The sandbox's pages show a comment as the forges do."""

from coding_agent_testbed.forge.web.markdown import rendered
from coding_agent_testbed.forge.web.view import visible

COMMENT = """<!-- first -->
Two rounds. <!-- hidden -->

> It is louder.

| command | commit | base `78` |
| :-- | --- | --: |
| `grep a\\|b` | <b>0 | 1 |

| no table |
"""


def test_a_comment_has_its_quotation_and_its_table() -> None:
    shown = rendered(visible(COMMENT))
    assert str(shown).splitlines() == [
        "<p>Two rounds.</p>",
        "<blockquote><p>It is louder.</p></blockquote>",
        "<table><tr><th>command</th><th>commit</th><th>base <code>78</code></th></tr>"
        "<tr><td><code>grep a|b</code></td><td>&lt;b&gt;0</td><td>1</td></tr></table>",
        "<p>| no table |</p>",
    ]
