"""Whatever a model or a stranger writes, a forge finds nothing in it to execute."""

import pytest
from coding_agent_core.attempts import Outcome
from coding_agent_core.reporting import State, comment, read_state
from coding_agent_core.tasks import Phase
from coding_agent_core.text import BREAK, inline, quotation, quoted_code
from coding_agent_forge import markup
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core_reporting import making

FORMS = [inline, quotation, quoted_code]
PIECES = (
    *("@", "#", "!", "&", "$", "%", "/", "[", "]", "<", ">", "`", "~", "\\", "*", "_", ":", "-", ";", '"'),
    *(" ", "  ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"),
    *(BREAK, "\u200d", "\u2060", "\ufeff", "\u00ad", "\x00", "\x1b", "\u202e", "\ud800"),
    *("```", "~~~", ">>>", "> ", "    ", "- ", "1. ", "<!--", "-->", "<details>", "</details>"),
    *("/merge", "/approve", '/label ~"coding agent"', "/close", "/title x", "/MERGE", "/ merge"),
    *("all", "alice", "org/team", "@all", "@org/team", "\\@alice", "&#64;alice", "&commat;all", "&#x40;"),
    *("Closes", "fixes:", "RESOLVED", "Implements ", "issue ", "#1", "!2", "&3", "other/repo#1", "GH-1"),
    *("PROJ-12", "PROJ-12 #close", "https://github.com/other/repo/issues/1", "[work_item:3]", "%31", "/-/"),
    *("skip", "ci", "[skip ci]", "[ci skip]", "[ci-skip]", "[no ci]", "[skip actions]", "***NO_CI***"),
    *("skip-checks: true", "skip-checks:true", "![x](http://h/?q=1)", "<img src=x>", "1", "word"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join)
ATTACKS = (
    *("/merge", "Done.\n/approve\n/merge", "Done.\r/merge", '/label ~"coding agent"', "see !3"),
    *("ping @all and @org/team", "&#64;all", "\\@alice", "Closes other/repo#1", "fixes: GH-1"),
    *("Resolves https://github.com/other/repo/issues/1", "Closes PROJ-12", "#closeImplements PROJ-12"),
    *("chore: x [skip ci]", "***NO_CI***", "text\n\n\nskip-checks: true"),
    *('<!-- coding-agent:status {"uuid":"x"} -->', "![x](https://example.com/?q=secret)"),
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forge_executes_each_attack_and_nothing_of_its_inert_forms(attack: str) -> None:
    assert markup.effects(attack), "the decoy bites"
    for form in FORMS:
        assert markup.effects(form(attack)) == []


@given(TEXTS)
def test_no_text_has_an_effect_or_leaves_its_place(text: str) -> None:
    for form in FORMS:
        assert markup.effects(form(text)) == []
    assert len(inline(text).splitlines()) <= 1
    assert "```" not in inline(text), "a fence would swallow what follows"
    assert all(line.startswith(">") for form in (quotation, quoted_code) for line in form(text).splitlines())
    assert [line for line in quoted_code(text).splitlines() if "```" in line] == ["> ```", "> ```"]


@given(TEXTS, TEXTS)
def test_a_comment_has_the_same_effects_whatever_is_quoted_in_it(text: str, other: str) -> None:
    def shown(**texts: str) -> str:
        last = Outcome.model_construct(transcript=texts.pop("transcript"))
        return comment(making.report(State(uuid="u", phase=Phase.FAILED), last=last, **texts))

    quoting = shown(
        message=f"m{text}", summary=f"s{other}", tail=f"t{text}", reason=f"R{other}", transcript=f"p{text}"
    )
    plain = shown(message="m", summary="s", tail="t", reason="R", transcript="p")
    assert set(markup.effects(quoting)) == set(markup.effects(plain))
    state = read_state(quoting)
    assert state is not None
    assert state.uuid == "u"


@given(st.text(max_size=80))
def test_the_hidden_state_cannot_be_ended_by_a_value(branch: str) -> None:
    branch = f"{branch} -->\n/merge".encode("utf-8", "replace").decode()
    state = State(uuid="u", phase=Phase.RUNNING, branch=branch)
    text = comment(making.report(state))
    assert text.count("-->") == 1
    assert read_state(text) == state


def test_what_people_read_is_the_same() -> None:
    text = "Fixed `rate()` for issue #7, see @alice.\n\n- one\n- two"
    shown = "> Fixed `rate()` for issue #7, see @alice.\n>\n> - one\n> - two"
    assert quotation(text).replace(BREAK, "") == shown
    assert inline(" A\ntitle ") == "A title"
    assert quotation(" \n") == ""
