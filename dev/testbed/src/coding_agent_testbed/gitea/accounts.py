"""The accounts of a Gitea: administrators, people and the bot."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Account:
    """A user with a password for the web page and a token for the API."""

    login: str
    id: int
    password: str = field(repr=False)
    token: str = field(repr=False)
