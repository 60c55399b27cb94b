"""Finds mentions of our account in a text. Pure.

A mention counts only in the author's own words: not in code, not in a quotation, and not in the mail below a
reply by mail. Markdown is read line by line, as far as this needs it (https://spec.commonmark.org). The run
time is linear in the length of the text, because strangers write it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

_MARKERS = r"\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)*"
"""Matches the markers of lists, in which every other block may stand."""
_FENCE = re.compile(rf"{_MARKERS}(`{{3,}}(?=[^`]*$)|~{{3,}})")
_QUOTE = re.compile(rf"{_MARKERS}>(.*)$")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_NEW_BLOCK = re.compile(r"\s*(?:#{1,6}\s|[-*+]\s|\d{1,9}[.)]\s|`{3}|~{3}|<|(?:[-*_]\s*){3,}$)")
"""Matches lines that begin something new. Any other line continues the paragraph above it."""
_INDENTED = re.compile(r" {4}| {0,3}\t")
_RAW = ("pre", "code", "blockquote", "tt", "samp", "kbd", "script", "style", "textarea")
_HTML_BLOCK = re.compile(r" {0,3}(?:<(pre|blockquote|script|style|textarea)\b|(<!--))", re.IGNORECASE)
_HTML = re.compile(
    rf"<!--.*?(?:-->|\Z)|<({'|'.join(_RAW)})\b[^<>]{{0,300}}>.*?(?:</\1\s{{0,9}}>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_WROTE = re.compile(
    r"\s*(?:On|Am|Le|El|Il|Em|Op)\s.{5,300}?"
    r"(?:wrote|schrieb.{0,200}|a écrit|escribió|ha scritto|escreveu|schreef.{0,200})\s?:\s*$"
)
"""Matches the line that mail programs put above what they quote."""
_ORIGINAL = re.compile(
    r"\s*(?:-{2,}\s*(?:Original Message|Ursprüngliche Nachricht|Message d'origine|Forwarded message)\s*-{2,}"
    r"|_{20,}|\*?From:\*?\s.{1,300}@.{1,300})\s*$",
    re.IGNORECASE,
)
_RUN = re.compile(r"`+")
_BLANK = re.compile(r"\n\s*\n")


def mentions(body: str, login: str) -> bool:
    """Whether the author of a text mentions the account.

    The account of a GitHub App is `name[bot]`, but people write `@name`.
    """
    name = login.removesuffix("[bot]")
    if not name or "@" not in body:
        return False
    text = _HTML.sub(" ", _without_code("\n".join(_own_lines(body.splitlines()))))
    pattern = rf"(?<![\w/.@-])@{re.escape(name)}(?:\[bot\])?(?![\w/-]|\.\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _own_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield the author's own lines: no blocks of code, no quotations, no quoted mail at the end."""
    fence = closing = ""
    blank, in_quote, in_list, in_code = True, False, False, False
    for number, whole in enumerate(lines):
        line = whole
        if closing:
            is_closed, line = _after(line, closing)
            closing = "" if is_closed else closing
        if fence:
            bare = line.strip()
            fence = "" if len(bare) >= len(fence) and not bare.strip(fence[0]) else fence
            continue
        if closing or not line.strip():
            blank, in_quote = True, False
            continue
        if _is_above_a_mail(lines, number):
            return
        quoted = _QUOTE.match(line)
        # A line below a quotation that begins nothing new belongs to the quoted paragraph.
        if quoted is not None or (in_quote and _NEW_BLOCK.match(line) is None):
            in_quote = quoted is None or bool(quoted[1].strip())
            blank = False
            continue
        indented = _INDENTED.match(line) is not None
        in_code = indented and (blank or in_code) and not in_list
        if not indented:
            in_list = _ITEM.match(line) is not None
        # An empty line ends the paragraph, and so the spans of code in it.
        if blank:
            yield ""
        blank = in_quote = False
        opened, block = _FENCE.match(line), _HTML_BLOCK.match(line)
        if in_code:
            continue
        if opened is not None:
            fence = opened[1]
        elif block is not None:
            closing = f"</{block[1].lower()}" if block[1] else "-->"
            is_closed, line = _after(line[block.end() :], closing)
            closing = "" if is_closed else closing
            yield line
        else:
            yield line


def _after(line: str, closing: str) -> tuple[bool, str]:
    """Return whether a line contains a closing mark, in any letter case, and the text after the mark."""
    at = line.lower().find(closing)
    return (False, "") if at < 0 else (True, line[at + len(closing) :].lstrip("> "))


def _is_above_a_mail(lines: Sequence[str], number: int) -> bool:
    """Whether the lines after this one are a mail that is quoted without `>`.

    If the quotation has marks, the author of the reply may continue below it.
    """
    line = lines[number]
    if _ORIGINAL.match(line) is not None:
        return True
    following = next((one for one in lines[number + 1 : number + 6] if one.strip()), "")
    wrapped = f"{line.strip()} {following.strip()}" if len(line) < 300 and len(following) < 300 else ""
    if _WROTE.match(line[:900]) is not None:
        return not following.lstrip().startswith(">")
    if following.rstrip().endswith(":") and _WROTE.match(wrapped) is not None:
        after = next((one for one in lines[number + 2 : number + 7] if one.strip()), "")
        return not after.lstrip().startswith(">")
    return False


def _without_code(text: str) -> str:
    """Return the text without code spans, which stand between two equally long runs of backticks."""
    kept: list[str] = []
    for paragraph in _BLANK.split(text):
        runs = list(_RUN.finditer(paragraph))
        places: dict[int, list[int]] = defaultdict(list)
        for place in range(len(runs) - 1, -1, -1):
            places[len(runs[place][0])].append(place)
        at = place = 0
        while place < len(runs):
            later = places[len(runs[place][0])]
            while later and later[-1] <= place:
                later.pop()
            if later:
                kept.append(paragraph[at : runs[place].start()])
                place = later.pop()
                at = runs[place].end()
            place += 1
        kept += [paragraph[at:], "\n\n"]
    return " ".join(kept)
