"""Reads the references by which people name a task: its name, or its issue or change. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.agenttask import GROUP, KIND, PLURAL, AgentTask
from coding_agent_core.task.model import Item, item_of
from coding_agent_core.task.runs import newest_of

from kubectl_agenttask import NotFoundError, UsageError
from kubectl_agenttask.argument_types import FORMS

_KINDS = "|".join((KIND.lower(), PLURAL, "agt"))
_KIND = re.compile(rf"(?:{_KINDS})(?:\.(?:[a-z0-9]+\.)?{re.escape(GROUP)})?/")
"""How kubectl writes the kind before a name: `agenttask.coding-agent.dev/NAME`, `agt/NAME`."""
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names"""
_SHORT = re.compile(r"[^\s#!/]+(?:/[^\s#!/]+)+[#!][1-9][0-9]*")


@dataclass(frozen=True)
class Reference:
    """One task, as a person names it. Either `name` is set, or the item is.

    Attributes:
        text: what the person wrote.
        name: the task's name.
        display: the item's name for people in lower case, such as `owner/repo#12` (`Item.display`).
        items: what the address of an item can mean; empty if only `display` is known. Products of forges
            have addresses that look alike.
    """

    text: str
    name: str = ""
    display: str = ""
    items: tuple[Item, ...] = ()

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse a person's text into a reference.

        Raises:
            UsageError: the text is not a reference.
        """
        text = text.strip()
        if text.startswith(("http://", "https://")):
            items = tuple(_items(text))
            if not items:
                raise UsageError(
                    f"{text!r} is not the address of an issue, pull request or merge request: copy it from "
                    "the browser"
                )
            return Reference(text, items=items)
        if _SHORT.fullmatch(text):
            return Reference(text, display=text.lower())
        name = _KIND.sub("", text, count=1)
        if not _NAME.fullmatch(name):
            raise UsageError(f"{text!r} does not name a task: give {FORMS}")
        return Reference(text, name=name)

    @property
    def repository(self) -> str:
        """The path of the item's repository; empty for a name."""
        if self.items:
            return self.items[0].repository
        return re.split("[#!]", self.text, maxsplit=1)[0] if self.display else ""

    def matches(self, task: AgentTask) -> bool:
        """Whether a task is one of those that the person means; a task of another release never is."""
        if self.name:
            return task.name == self.name
        if not task.readable:
            return False
        item = task.spec.item
        if not self.items:
            return item.display.lower() == self.display
        return any(_place(item) == _place(meant) for meant in self.items)

    def newest(self, tasks: Sequence[AgentTask]) -> AgentTask:
        """Return the newest of the tasks that match this reference, of which there is at least one.

        Raises:
            NotFoundError: the tasks belong to several items, e.g. of two forges; the message lists them.
        """
        if self.name:
            return tasks[0]
        if len({_place(task.spec.item) for task in tasks}) > 1:
            raise NotFoundError(f"{self.text} names several items: give the name of a task.{listed(tasks)}")
        # A task that a person wrote may lack the number of its project, so its item looks like another one.
        return newest_of(tasks)


def listed(tasks: Sequence[AgentTask]) -> str:
    """Return lines with the name and the address of each task, for the end of a message."""
    return "".join(f"\n  {task.name}  {task.spec.url or task.spec.item.host}" for task in tasks)


def _items(url: str) -> Iterable[Item]:
    for platform in Platform:
        try:
            yield item_of(url, platform=platform)
        except ValueError:
            continue  # it is not an address of this platform


def _place(item: Item) -> tuple[str, str, str]:
    """Return the parts of an item that its address shows. The project id is not one of them."""
    return item.platform, item.host.lower(), item.display.lower()
