"""Markdown on the pages: what the agent and people write looks as on a forge, and nothing of it is HTML."""

from __future__ import annotations

import re

import pytest
from coding_agent_forge.web.markdown import rendered


@pytest.mark.parametrize(
    ("markdown", "page"),
    [
        ("one\ntwo\n\nthree", "<p>one<br>\ntwo</p>\n<p>three</p>"),
        ("`>=` instead of `>`", "<p><code>&gt;=</code> instead of <code>&gt;</code></p>"),
        ("- `x`: a\n- b\n  more\n\nend", "<ul><li><code>x</code>: a</li><li>b more</li></ul>\n<p>end</p>"),
        ("## What", "<h4>What</h4>"),
        ("```python\na < b\n\n**c**\n```\nafter", "<pre><code>a &lt; b\n\n**c**</code></pre>\n<p>after</p>"),
        ("<sub>a · task `b`</sub>", "<p><sub>a · task <code>b</code></sub></p>"),
        (
            "<details><summary>The last lines</summary>\n\n```\nx\n```\n</details>",
            "<details><summary>The last lines</summary>\n<pre><code>x</code></pre>\n</details>",
        ),
        (
            "See http://127.0.0.1:8/a/pull/3.",
            '<p>See <a href="http://127.0.0.1:8/a/pull/3" rel="nofollow">http://127.0.0.1:8/a/pull/3</a>.</p>',
        ),
        (
            "[Transcript](https://x.example/a?b&c)",
            '<p><a href="https://x.example/a?b&amp;c" rel="nofollow">Transcript</a></p>',
        ),
    ],
)
def test_what_is_written_is_shown(markdown: str, page: str) -> None:
    assert rendered(markdown) == page


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '[x](javascript:alert(1)) "y" <a href="javascript:z">',
        '<details open ontoggle="x">',
        "<details><summary><img src=x></summary>",
        '<sub onclick="x">',
        "`<b>` **<i>** # <u>\n# <u>\n- <s>",
        "&lt;script&gt;",
        '[x](https://a.example/"onmouseover="y)',
        "```\n<style>",
    ],
)
def test_nothing_that_is_written_is_html(hostile: str) -> None:
    page = str(rendered(hostile))
    ours = "|".join(("p", "br", "b", "ul", "li", "code", "pre", "sub", "details", "summary", "h3"))
    link = r'<a href="https://[^"<>]*" rel="nofollow">|</a>'

    assert "<" not in re.sub(rf"</?({ours})>|{link}", "", page)
