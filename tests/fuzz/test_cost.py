"""No text of a stranger costs the square of its length: event loops read such texts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from coding_agent_consumer.item.background import image_links
from coding_agent_consumer.repository.commits import subject_of
from coding_agent_consumer.repository.git_errors import classify
from coding_agent_consumer.rounds.check_errors import errors_of
from coding_agent_consumer.rounds.replies import said_of, without_ids
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_core.platforms.markdown import inline, quotation, quoted_code
from coding_agent_core.platforms.text import last_lines, one_line
from coding_agent_core.reporting.comment import (
    Links,
    comment_with_change_rounds,
    comment_with_rounds,
    read_state,
    without_change_rounds,
)
from coding_agent_core.rounds.mentions import mentions
from coding_agent_core.task.commands import command_in
from coding_agent_core.task.model import CommandName
from coding_agent_core.task.round_record import RoundRecord, marked_answers, read_record
from coding_agent_forges.gitea import changes as gitea
from coding_agent_forges.github import discussion as github
from coding_agent_forges.gitlab import change_responses as gitlab
from coding_agent_forges.gitlab.discussion import SECTION
from coding_agent_forges.rest.client import log_text
from coding_agent_forges.rest.hidden_line import checked

from tests.fixtures.deliveries import issue
from tests.fuzz.bounds import calls_linear, linear

MARKER = "<!-- coding-agent:status "
LINKS = Links("https://github.com", "coding-agent/")
URL = "https://github.com/acme/pricing/pull/8"
SCRUB = Scrub(["a-secret-of-the-gateway", "aaaaaaaaaaaab"])

READERS: dict[str, Callable[[str], object]] = {
    "read_state": read_state,
    "checked": lambda text: checked(text, issue(), ["k" * 32]),
    "comment_with_rounds": lambda text: comment_with_rounds(text, RoundRecord(), "Rerun."),
    "comment_with_change_rounds": lambda text: comment_with_change_rounds(text, issue(), URL, "One round."),
    "without_change_rounds": without_change_rounds,
    "change_problem": lambda text: LINKS.change_problem(text, issue()),
    "read_record": read_record,
    "marked_answers": lambda text: marked_answers([text]),
    "errors_of": errors_of,
    "errors_of with a count": lambda text: errors_of(f"{text} 1 error {'x' * len(text)}"),
    "log_text": lambda text: log_text(text.encode(), SECTION),
    "log_text of GitHub": lambda text: log_text(text.encode(), github._TIME),
    "mentions": lambda text: mentions(text, "coding-agent-bot"),
    "command_in": lambda text: command_in(text, tuple(CommandName)),
    "said_of": lambda text: said_of(text, ["t1", "r2"]),
    "without_ids": without_ids,
    "subject_of": subject_of,
    "image_links": lambda text: list(image_links(text)),
    "inline": inline,
    "quotation": quotation,
    "quoted_code": quoted_code,
    "one_line": lambda text: one_line(text, 400),
    "last_lines": lambda text: last_lines(text, 400),
    "classify": lambda text: classify(text, "https://github.com/acme/pricing.git"),
    "scrub": SCRUB,
    "without_draft of GitLab": gitlab.without_draft,
    "without_draft of Gitea": gitea.without_draft,
}
PARTS = (
    *(
        " ",
        "\t",
        "\n",
        "\r",
        "\x00",
        "\x1b",
        "\x1b[",
        "\x1b[0;",
        "é",
        "\u2028",
        "a",
        "A",
        "0",
        "1 ",
        "a ",
        "a\n",
    ),
    *("0 errors ", "no fail ", "0 errors 1 ", "error ", "error\n", "  E  ", f"{MARKER}{{", f"{MARKER}{{}}"),
    *("<!-- coding-agent:signature a/b ", f"{MARKER}{{}} --><!-- coding-agent:signature a/b sha256="),
    *(f"> {MARKER}{{", MARKER, "<!-- coding-agent:answers ", "<!-- coding-agent:notes -->", "<!--", "-->"),
    *("<!-- coding-agent:rounds -->", "<!-- coding-agent:rounds -->\n", "<", "<a", "</", "&", "&#", "&amp"),
    *("`", "``` ", "```\n", "~~~\n", "   ```\n", ">", "> ", ">>", "@", "@coding-agent-bot", "#", "# ", "**"),
    *(
        "_",
        "[",
        "![",
        "![](",
        "![a](b",
        "](",
        "(",
        "[t1]",
        "[t1] ",
        "1. [t1] x\n",
        "[t1] x\n",
        "/",
        "//",
        "/a",
    ),
    *("https://", "https://a ", "a://", "<img ", '<img src="', "draft:", "[draft] ", "wip: ", "WIP:\t", "\\"),
    *(
        "section_start:1:",
        "section_start:1:a\r",
        "2026-12-02T00:00:00Z ",
        "!\t",
        "! [remote rejected] (",
        ".",
    ),
    *("remote: ", "repository '", "returned error: ", "/run ", "/run\n", '"', "'", "{", "}", "- ", "  \n"),
)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_strangers_texts_calls_in_proportion_to_their_length(name: str) -> None:
    calls_linear(READERS[name], PARTS)


def test_the_count_finds_who_begins_anew_at_each_part() -> None:
    def anew(text: str) -> None:
        for begin in re.finditer(re.escape(MARKER), text):
            assert [found.start() for found in re.finditer(MARKER, text[begin.start() :])]

    with pytest.raises(AssertionError, match="calls for 1024 characters of"):
        calls_linear(anew, (MARKER,))


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_strangers_texts_takes_time_in_proportion_to_their_length(name: str) -> None:
    linear(READERS[name], PARTS)


@pytest.mark.long
def test_the_measure_finds_what_is_quadratic() -> None:
    pattern = re.compile(re.escape(MARKER) + r"(\{[^\n]*?\}) -->")
    with pytest.raises(AssertionError, match="s for 8192 characters of"):
        linear(pattern.search, (f"{MARKER}{{",))
