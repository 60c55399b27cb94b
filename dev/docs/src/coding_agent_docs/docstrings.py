"""The strings under the attributes of a class, which Python itself throws away."""

from __future__ import annotations

import ast
import inspect
import textwrap


def attribute_docstrings(cls: type) -> dict[str, str]:
    """By attribute, inherited ones included; line breaks become blanks."""
    found: dict[str, str] = {}
    for entry in reversed(cls.__mro__):
        if entry.__module__.partition(".")[0] == cls.__module__.partition(".")[0]:
            found.update(_own(entry))
    return found


def _own(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
