"""Creates labels on Gitea, which accepts several labels of one name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from coding_agent_core.errors import ForgeNotFoundError

from coding_agent_forges.rest.calls import Call, Repeat, ResponseModel, path

if TYPE_CHECKING:  # the set-up, which is given a client, imports no HTTP library
    from coding_agent_forges.rest.client import ForgeClient

_PAGES = 40


class RepositoryLabel(ResponseModel):
    id: int
    name: str


async def create_label(client: ForgeClient, repository: str, label: Mapping[str, str]) -> int:
    """Create a label, and return the id of the label to use, which is the oldest of this name.

    Gitea refuses no second label of the same name, so two programs can each read that a label is missing, and
    then create it. All of them keep the same label, because ids only grow. Each deletes only the label that
    it created itself. Nobody else relies on that one: given a name, Gitea applies all labels that have it.

    Args:
        repository: the repository's path.
        label: the label's fields in Gitea's API, `name` among them.

    Raises:
        ForgeError: the forge refused a request or did not respond.
    """
    name = label["name"]
    where = path("repos", *repository.split("/", 1), "labels")
    create = Call(
        "POST",
        where,
        f"creating the label {name!r} in {repository}",
        json=label,
        repeat=Repeat.UNLESS_PROCESSED,
    )
    created = await client.get(RepositoryLabel, create)
    reading = Call("GET", where, f"reading the labels of {repository}")
    found = await client.entries(list[RepositoryLabel], reading, limit=_PAGES)
    first = min([created.id, *(one.id for one in found.values if one.name == name)])
    if first != created.id:
        delete = Call("DELETE", f"{where}/{created.id}", f"deleting a second label {name!r} of {repository}")
        with suppress(ForgeNotFoundError):  # a person was faster, or an answer was lost
            await client.send(delete)
    return first
