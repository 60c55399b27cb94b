"""Changes an input so that its JSON stays JSON: a fuzzer that only changes bytes seldom gets that far."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 10**400, 0.5, 1e300, "", [], {}),
    *("\ud800", "\x00\n", "\u202e", "<!-- coding-agent:status ", "0001-01-01T00:00:00+14:00", "a" * 300),
    *("9999-12-31T23:59:59-14:00", "2026-11-25T12:00:00Z", "2026-11-25 12:00:00", "https://github.com:x/"),
)
_DEEP = 6


def mutate(data: bytes, most: int, seed: int, bytewise: Callable[[bytes, int], bytes]) -> bytes:
    """Change one place of the input's JSON, or else some of its bytes.

    Args:
        most: the most bytes of the result.
        bytewise: changes some bytes of an input.
    """
    chance = Random(seed)
    head, found, body = data.partition(b"\n")
    if chance.random() < 0.3:
        return bytewise(data, most)
    for before, text in ((head + found, body), (b"", data)):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        changed = before + json.dumps(_changed(value, chance)).encode()
        return changed if len(changed) <= most else bytewise(data, most)
    return bytewise(data, most)


def _changed(value: Any, chance: Random) -> Any:
    places = list(_places(value, _DEEP))
    if not places:
        return chance.choice(_VALUES)
    place, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del place[key]
        case 1:
            place[key] = chance.choice(_VALUES)
        case 2:
            other, its = chance.choice(places)
            place[key] = json.loads(json.dumps(other[its] if its in _keys(other) else None))
        case 3 if isinstance(place, dict):
            place[chance.choice(places)[1] if chance.random() < 0.5 else "x"] = place[key]
            place = {str(name): entry for name, entry in place.items()}
        case 3:
            place.append(place[key])
        case _:
            place[key] = [place[key]] if chance.random() < 0.5 else {str(key): place[key]}
    return value


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))


def _places(value: Any, deep: int) -> Any:
    if deep and isinstance(value, dict | list):
        for key in list(_keys(value)):
            yield value, key
            yield from _places(value[key], deep - 1)
