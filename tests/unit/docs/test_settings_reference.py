"""The reference says of a setting what its type says."""

from pathlib import Path

from coding_agent_core.settings.section import SecretField, SecretSettings, Section
from coding_agent_docs.settings_reference import Key, groups
from pydantic import Field


class Inner(Section):
    """Something inside.

    More of it.
    """

    name: str
    """What it is
    called."""


class Base(Section):
    inherited: int = Field(default=3, gt=0, le=9)
    """From the base."""


class Outer(Base):
    """All (requirement S22)."""

    global_: float = Field(default=2.0, validation_alias="global")
    """Half | half."""
    token: SecretField = SecretSettings()
    place: Path | None = None
    """Where; `None`: here. `None`: truly."""
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = Field(default_factory=dict)


def test_groups() -> None:
    outer, many, by_name = groups(Outer, "outer")
    assert outer.keys == (
        Key("`outer.inherited`", "integer > 0, ≤ 9", "`3`", "", "From the base."),
        Key("`outer.global`", "number", "`2`", "", "Half | half."),
        Key("`outer.token`", "[secret](#secrets)", "none", "", ""),
        Key("`outer.place`", "path", "none", "", "Where; if not set: here. If not set: truly."),
        Key("`outer.many`", "list", "empty", "", ""),
        Key("`outer.by_name`", "mapping", "empty", "", ""),
    )
    assert outer.meaning == "All."
    assert (many.path, many.meaning) == ("outer.many[]", "Something inside.")
    assert many.keys == (Key("`outer.many[].name`", "text", "required", "", "What it is called."),)
    assert by_name.path == "outer.by_name.NAME"


def test_variables_are_named() -> None:
    found = {key.path: key for group in groups() for key in group.keys}
    assert (
        found["`webhook.github.secret`"].variable == "`GITHUB_WEBHOOK_SECRET`, `GITHUB_WEBHOOK_SECRET_FILE`"
    )
