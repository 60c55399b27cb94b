"""Tells whether a text addresses our account. Pure."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1[`~]*\s*$|\Z)", re.MULTILINE | re.DOTALL)
_QUOTE = re.compile(r"^ {0,3}>.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def mentions(body: str, login: str) -> bool:
    """Whether a text addresses the account, outside quotations, code and HTML comments.

    An App's account is `name[bot]`, but people write `@name`.
    """
    name = login.removesuffix("[bot]")
    if not name:
        return False
    text = _QUOTE.sub("", _FENCE.sub("", _HIDDEN.sub("", body)))
    pattern = rf"(?<![\w/.@-])@{re.escape(name)}(?:\[bot\])?(?![\w/-]|\.\w)"
    return re.search(pattern, _CODE.sub("", text), re.IGNORECASE) is not None
