"""The signature of the hidden line in our comment on an item.

People with rights in a repository may edit our account's comments, and later decisions rely on the state in
the hidden line. So the line has a signature: an HMAC-SHA256 of the item's identity and of the line.
`OwnComments` adds it to what it writes, and checks and removes it in what it reads. No other code sees it.

Example:
    written = signed(comment(report), item, keys)
    state = read_state(checked(written, item, keys).body)
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.values import HIDDEN_LINE_BEGINS, MARKER, hidden_line
from coding_agent_core.settings.model import SHORTEST_COMMENT_KEY
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_core.task.model import Item

_logger = logging.getLogger("coding_agent.forge")
_IGNORED = f"{MARKER}ignored {{"
_SIGNATURE = re.compile(r"<!-- coding-agent:signature ([^\s<>]{1,300}) sha256=([0-9a-f]{64}) -->")


@dataclass(frozen=True)
class CheckedBody:
    """A comment's body without its signature.

    Attributes:
        body: the text. If there is a problem, its hidden line has no state, but still the marker by which we
            find our comment.
        problem: why the hidden line does not count, as a clause; empty if it counts, or if there is none.
        place: the repository for which the line was signed, if it is not the item's; in the form that
            `Item.identity` has. The forge must then say whether the item's repository had this name.
    """

    body: str
    problem: str = ""
    place: str = ""


def signed(body: str, item: Item, keys: Sequence[str]) -> str:
    """Return a body whose hidden line is signed with the first key. Without keys, nothing is signed."""
    found = hidden_line(body)
    if found is None or not keys:
        return body
    place = _place(item)
    mac = _mac(keys[0], item, place, body[found]).hex()
    signature = f"<!-- coding-agent:signature {place} sha256={mac} -->"
    return f"{body[: found.stop]}{signature}{body[found.stop :]}"


def checked(body: str, item: Item, keys: Sequence[str]) -> CheckedBody:
    """Check the signature of a body's first hidden line, which is the one that `read_state` reads.

    The signature may be by any of the keys. Without keys, nothing is checked.
    """
    found = hidden_line(body)
    if found is None:
        return CheckedBody(body)
    signature = _SIGNATURE.match(body, found.stop)
    plain = body if signature is None else body[: found.stop] + body[signature.end() :]
    if not keys:
        return CheckedBody(plain)
    if signature is None:
        return CheckedBody(_without_lines(body), "it is not signed")
    place, mac = signature[1], bytes.fromhex(signature[2])
    # Every key is tried, so that the time of the answer does not tell which one is right.
    equal = [hmac.compare_digest(mac, _mac(key, item, place, body[found])) for key in keys]
    if not any(equal):
        problem = (
            "its signature is wrong: the line was edited or copied from elsewhere, or the key is another"
        )
        return CheckedBody(_without_lines(body), problem)
    return CheckedBody(plain, place="" if place == _place(item) else place)


def _without_lines(body: str) -> str:
    return body.replace(HIDDEN_LINE_BEGINS, _IGNORED)


def _place(item: Item) -> str:
    return item.identity.split("|")[2]


def _mac(key: str, item: Item, place: str, line: str) -> bytes:
    platform, host, _, kind, number = item.identity.split("|")
    # No part has a line break, so different parts never give the same message.
    message = "\n".join((platform, host, place, kind, number, line))
    # An answer in JSON can contain half of a surrogate pair.
    return hmac.digest(
        key.encode("utf-8", "surrogateescape"), message.encode("utf-8", "surrogatepass"), hashlib.sha256
    )


@dataclass
class HiddenLines:
    """Signs and checks hidden lines with the configured keys.

    A line whose signature is not valid is logged once. The keys are read for each call, because the file of a
    key can change while the program runs.
    """

    secrets: Secrets = field(default_factory=lambda: Secrets(SecretSettings()))
    _logged: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """The last body of each item's comment that did not count."""

    def signed(self, item: Item, body: str) -> str:
        """Return the body with its hidden line signed; unchanged if no key is configured."""
        return signed(body, item, self._keys())

    def checked(self, item: Item, body: str) -> CheckedBody:
        """Check the signature of the body's hidden line, and log once why a line does not count."""
        if hidden_line(body) is None:
            return CheckedBody(body)
        found = checked(body, item, self._keys())
        if found.problem:
            self.ignored(item, body, found.problem)
        return found

    def mac(self, item: Item, text: str) -> str:
        """Return the signature of another text of ours about the item; empty if no key is configured.

        Args:
            text: one line that cannot be a hidden line.
        """
        keys = self._keys()
        return _mac(keys[0], item, _place(item), text).hex() if keys else ""

    def proves(self, item: Item, text: str, mac: str) -> bool | None:
        """Whether a text about the item has this signature of ours; `None` if no key is configured."""
        keys, given = self._keys(), mac.encode("utf-8", "surrogatepass")
        equal = [
            hmac.compare_digest(given, _mac(key, item, _place(item), text).hex().encode()) for key in keys
        ]
        return any(equal) if keys else None

    def ignored(self, item: Item, body: str, problem: str) -> str:
        """Log why a body's hidden line does not count, and return the body without it."""
        if self._logged.get(item.identity) != body:
            self._logged[item.identity] = body
            _logger.warning("The state in our comment on %s is ignored: %s", item.display, problem)
        return _without_lines(body)

    def _keys(self) -> list[str]:
        """Return the keys; none if none are configured.

        Raises:
            SettingsError: a key is missing or too short. No line may be read as if there were no keys.
        """
        keys = self.secrets.current()
        if not keys and self.secrets.settings.configured:
            files = ", ".join(map(str, self.secrets.settings.files))
            raise SettingsError(f"`comment_key`: {files} cannot be read or is empty.")
        if any(len(key) < SHORTEST_COMMENT_KEY for key in keys):
            raise SettingsError(f"`comment_key`: a key has fewer than {SHORTEST_COMMENT_KEY} characters.")
        return keys
