"""The forge's state, in memory; only the git repositories are on disk.

Every method is synchronous and runs on the server's one event loop, so that each is atomic towards concurrent
requests: whoever must ask git first does so before it calls a method that checks and changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count

from coding_agent_testbed.forge import markup
from coding_agent_testbed.forge.apps import Apps
from coding_agent_testbed.forge.clock import utc_now
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.eventlog import EventLog
from coding_agent_testbed.forge.model import (
    STATE_EVENTS,
    Before,
    Comment,
    Flavour,
    Happening,
    Hook,
    Item,
    ItemEvent,
    Kind,
    Label,
    Push,
    Reaction,
    Repository,
    TextEdit,
    Tips,
    User,
    Version,
)


class Store:
    """Users, repositories and hooks, and the rules of changing them; tells `listener` what happened."""

    def __init__(self, flavour: Flavour, now: Callable[[], datetime] = utc_now) -> None:
        self.flavour = flavour
        self.now = now
        self._ids = count(1001)
        self._state_events = count(1)
        self.users: list[User] = []
        self.repositories: list[Repository] = []
        self.hooks: list[Hook] = []
        self._old_names: dict[str, Repository] = {}
        self.log = EventLog()
        self.apps = Apps(now, self.next_id)
        self.listener: Callable[[Happening], None] = lambda happening: None
        self.review_requested: Callable[[Item, User, User], None] = lambda item, actor, reviewer: None
        self.tips_of: Callable[[Repository, Item], Tips] = lambda repository, change: change.tips

    def next_id(self) -> int:
        """A new id, unique in the whole forge."""
        return next(self._ids)

    def user(self, login: str) -> User | None:
        """The user of a login, in any case of letters."""
        known = (*self.users, *(app.account for app in self.apps.apps))
        return next((user for user in known if user.login.casefold() == login.casefold()), None)

    def accounts(self) -> list[User]:
        """Everybody with a token that is valid now."""
        return [*self.users, *self.apps.actors()]

    def repository(self, full_name: str) -> Repository | None:
        """The repository of a full path, in any case of letters."""
        wanted = full_name.casefold()
        return next((one for one in self.repositories if one.full_name.casefold() == wanted), None)

    def rename(self, repository: Repository, full_name: str) -> None:
        """Give a repository another name or owner. Its old name leads to it until another takes it."""
        self._old_names[repository.full_name.casefold()] = repository
        self._old_names.pop(full_name.casefold(), None)
        repository.owner, _, repository.name = full_name.rpartition("/")

    def by_old_name(self, old_name: str) -> Repository | None:
        """The repository that had this name and has another one now, unless a new one has taken the name."""
        found = None if self.repository(old_name) else self._old_names.get(old_name.casefold())
        return None if found is None or found.deleted else found

    def delete(self, repository: Repository) -> None:
        """Delete a repository; changes from its branches to other repositories stay."""
        repository.deleted = True
        self.repositories.remove(repository)

    def add_hook(
        self,
        repository: Repository | None,
        url: str,
        secret: str,
        events: Iterable[str],
        *,
        active: bool = True,
    ) -> Hook:
        """Set a webhook up."""
        hook = Hook(
            id=self.next_id(),
            repository=repository,
            url=url,
            secret=secret,
            events=frozenset(events),
            created_at=self.now(),
            uuid=str(uuid.uuid4()),
            active=active,
        )
        self.hooks.append(hook)
        return hook

    def label(self, repository: Repository, name: str) -> Label | None:
        """A repository's label; GitHub does not tell upper and lower case apart, GitLab does."""
        if self.flavour is Flavour.GITHUB:
            wanted = name.casefold()
            return next((label for label in repository.labels if label.name.casefold() == wanted), None)
        return next((label for label in repository.labels if label.name == name), None)

    def ensure_label(
        self, repository: Repository, name: str, color: str = "ededed", description: str = ""
    ) -> Label:
        """The repository's label, made if there is none: what both forges do when one is put on."""
        label = self.label(repository, name)
        if label is None:
            label = Label(self.next_id(), name, color.lstrip("#"), description)
            repository.labels.append(label)
        return label

    def open_item(
        self,
        repository: Repository,
        actor: User,
        *,
        title: str,
        body: str = "",
        labels: Sequence[str] = (),
        assignees: Sequence[User] = (),
        confidential: bool = False,
    ) -> Item:
        """Open an issue."""
        item = self._new_item(repository, Kind.ISSUE, actor, title, self.kept(body))
        item.assignees, item.confidential = list(assignees), confidential
        self._opened(repository, item, actor, labels)
        self.execute(repository, item, actor, body)
        return item

    def open_change(
        self,
        repository: Repository,
        actor: User,
        *,
        title: str,
        body: str,
        head: str,
        base: str,
        tips: Tips,
        labels: Sequence[str] = (),
        draft: bool = False,
        source: Repository | None = None,
    ) -> Item:
        """Open a pull request or merge request; `source` is the fork that holds its branch, if one does.

        Raises:
            HttpError: 422 (GitHub) or 409 (GitLab) when one from this branch is open already.
        """
        for other in repository.items:
            same = (other.head, other.base) == (head, base) and other.source is source
            if other.kind is Kind.CHANGE and other.open and same:
                raise self._exists(repository, other)
        item = self._new_item(repository, Kind.CHANGE, actor, title, self.kept(body))
        item.head, item.base, item.tips, item.draft, item.source = head, base, tips, draft, source
        item.versions.append(Version(tips.head_sha, tips.base_sha, item.created_at))
        self._opened(repository, item, actor, labels)
        self.execute(repository, item, actor, body)
        return item

    def update(
        self,
        repository: Repository,
        item: Item,
        actor: User,
        *,
        title: str | None = None,
        body: str | None = None,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        opened: bool | None = None,
    ) -> None:
        """Change what is given, in one step as the forge sees it; tells nobody when nothing changed."""
        now = self.now()
        before = Before(item.title, item.body, tuple(item.labels), item.updated_at)
        item.title = item.title if title is None else title
        item.body = item.body if body is None else self.kept(body)
        added = [label for label in self._labels(repository, add) if label not in item.labels]
        removed = [label for label in item.labels if self._named(label, remove)]
        item.labels = [label for label in item.labels if label not in removed] + added
        self._record(repository, item, actor, "labeled", now, added)
        self._record(repository, item, actor, "unlabeled", now, removed)
        action = self._reopen_or_close(repository, item, actor, opened, now)
        same_text = (item.title, item.body) == (before.title, before.body)
        if action == "updated" and same_text and not added and not removed:
            return
        if not same_text:
            self.log.add("edited", repository, actor, item, body=item.body)
        item.updated_at = now
        self._record_edits(item, actor, before, now)
        if item.kind is Kind.CHANGE and self.flavour is Flavour.GITLAB:
            draft = markup.is_draft(item.title)
            if draft is not item.draft:
                self._record_draft(repository, item, actor, now, draft=draft)
        self.listener(Happening(action, repository, item, actor, now, before, tuple(added), tuple(removed)))
        if body is not None:
            self.execute(repository, item, actor, body)

    def delete_label(self, repository: Repository, label: Label, actor: User) -> None:
        """Delete a label from the repository, and with it from every item.

        GitHub tells so with one `unlabeled` for each item, without the label. GitLab sends nothing, and its
        history of the item does not show it.
        """
        repository.labels.remove(label)
        for item in repository.items:
            if label not in item.labels:
                continue
            now = self.now()
            before = Before(item.title, item.body, tuple(item.labels), item.updated_at)
            item.labels.remove(label)
            item.updated_at = now
            if self.flavour is Flavour.GITLAB:
                self.log.add("unlabeled", repository, actor, item, label=label.name)
            else:
                self._record(repository, item, actor, "unlabeled", now, [label])
                happening = Happening("updated", repository, item, actor, now, before, removed=(label,))
                self.listener(replace(happening, label_deleted=True))

    def comment(self, repository: Repository, item: Item, actor: User, body: str) -> Comment:
        """Write a comment."""
        now = self.now()
        comment = Comment(self.next_id(), actor, self.kept(body), now, now)
        item.comments.append(comment)
        item.updated_at = now
        self.log.add("commented", repository, actor, item, comment=comment.id, body=comment.body)
        self.listener(Happening("commented", repository, item, actor, now, comment=comment))
        self.execute(repository, item, actor, body)
        return comment

    def edit_comment(
        self, repository: Repository, item: Item, actor: User, comment: Comment, body: str
    ) -> None:
        """Change a comment's text; our flows need no event for it, so none is sent."""
        comment.body = self.kept(body)
        comment.updated_at = item.updated_at = self.now()
        self.log.add("comment_edited", repository, actor, item, comment=comment.id, body=comment.body)
        self.execute(repository, item, actor, body)

    def react(self, comment: Comment, actor: User, name: str) -> tuple[Reaction, bool]:
        """Put a reaction on a comment; each person has each of them once. Whether it is new."""
        for reaction in comment.reactions:
            if reaction.user == actor and reaction.name == name:
                return reaction, False
        reaction = Reaction(self.next_id(), actor, name, self.now())
        comment.reactions.append(reaction)
        return reaction, True

    def set_draft(self, repository: Repository, item: Item, actor: User, *, draft: bool) -> None:
        """Make a change a draft, or ready for review. GitLab's way is the beginning of the title.

        Our flows need no event of GitHub's for it, so none is sent.
        """
        if self.flavour is Flavour.GITLAB:
            title = markup.without_draft(item.title)
            self.update(repository, item, actor, title=f"Draft: {title}" if draft else title)
            return
        item.updated_at = self.now()
        self._record_draft(repository, item, actor, item.updated_at, draft=draft)

    def moved(
        self, repository: Repository, item: Item, actor: User, tips: Tips, *, shortened: bool = False
    ) -> None:
        """Take note of where git says that a change's branches are now.

        `shortened`: its branch only lost commits, of which GitLab's notes say nothing.
        """
        previous, now = item.tips.head_sha, self.now()
        if not self._see_tips(item, tips, now):
            return
        item.updated_at = now
        if not shortened:
            self.system_note(item, actor, "added 1 commit", now)
        self.listener(Happening("synchronized", repository, item, actor, now, previous_sha=previous))

    def pushed(
        self, repository: Repository, actor: User, branch: str, before: str, after: str, *, forced: bool
    ) -> None:
        """Record that somebody moved a branch."""
        repository.pushes.append(
            Push(self.next_id(), actor, self.now(), branch, before, after, forced=forced)
        )
        self.log.add("pushed", repository, actor, branch=branch, before=before, after=after, forced=forced)

    def merged(self, repository: Repository, item: Item, actor: User) -> None:
        """Record that a change's commits are in its base branch, and close the issues that it names."""
        item.merged_at = item.closed_at = item.updated_at = self.now()
        self._record(repository, item, actor, "merged", item.updated_at)
        self.listener(Happening("merged", repository, item, actor, item.updated_at))
        for named in markup.closes(item.body):
            place = self.repository(named.repository) if named.repository else repository
            role = place.role(actor) if place else None
            issue = place.item(named.number, Kind.ISSUE) if place else None
            if place and issue and role and role.may_write:
                self.update(place, issue, actor, opened=False)

    def kept(self, text: str) -> str:
        """Return what stays of a text: GitLab removes its quick actions."""
        return markup.without_commands(text) if self.flavour is Flavour.GITLAB else text

    def execute(self, repository: Repository, item: Item, actor: User, text: str) -> None:
        """Execute GitLab's quick actions in a text, with the rights of who wrote it."""
        role = repository.role(actor)
        if self.flavour is not Flavour.GITLAB or role is None or not role.may_write:
            return
        for command in markup.commands(text):
            match command.name:
                case "label" | "labels":
                    self.update(repository, item, actor, add=command.labels)
                case "unlabel" | "remove_label":
                    gone = [label.name for label in item.labels]
                    gone = [name for name in gone if not command.labels or name in command.labels]
                    self.update(repository, item, actor, remove=gone)
                case "close" | "reopen":
                    self.update(repository, item, actor, opened=command.name == "reopen")
                case "title":
                    self.update(repository, item, actor, title=command.argument)
                case "approve":
                    self._record(repository, item, actor, "approved", self.now())
                case "request_review" if item.kind is Kind.CHANGE:
                    reviewer = self.user(command.argument.removeprefix("@"))
                    if reviewer is not None:
                        self.review_requested(item, actor, reviewer)
                case "merge" if item.kind is Kind.CHANGE and item.open:
                    self.merged(repository, item, actor)

    def _new_item(self, repository: Repository, kind: Kind, actor: User, title: str, body: str) -> Item:
        # GitHub counts issues and pull requests together, GitLab each on its own.
        shared = self.flavour is Flavour.GITHUB
        taken = [item.number for item in repository.items if shared or item.kind is kind]
        now = self.now()
        return Item(self.next_id(), kind, max(taken, default=0) + 1, title, body, actor, now, now)

    def _opened(self, repository: Repository, item: Item, actor: User, labels: Sequence[str]) -> None:
        item.labels = self._labels(repository, labels)
        refs = {"branch": item.head or None, "base": item.base or None}
        self.log.add("opened", repository, actor, item, title=item.title, body=item.body, **refs)
        self._record(repository, item, actor, "labeled", item.created_at, item.labels)
        repository.items.append(item)
        self.listener(Happening("opened", repository, item, actor, item.created_at, added=tuple(item.labels)))

    def _labels(self, repository: Repository, names: Sequence[str]) -> list[Label]:
        labels: list[Label] = []
        for name in names:
            label = self.ensure_label(repository, name)
            if label not in labels:
                labels.append(label)
        return labels

    def _named(self, label: Label, names: Sequence[str]) -> bool:
        if self.flavour is Flavour.GITHUB:
            return label.name.casefold() in {name.casefold() for name in names}
        return label.name in names

    def _record(
        self,
        repository: Repository,
        item: Item,
        actor: User,
        event: str,
        at: datetime,
        labels: Sequence[Label | None] = (None,),
    ) -> None:
        for label in labels:
            # GitLab keeps these events in a table of their own, with numbers of their own.
            own_number = self.flavour is Flavour.GITLAB and event in STATE_EVENTS
            number = next(self._state_events) if own_number else self.next_id()
            item.events.append(ItemEvent(number, event, actor, at, label))
            self.log.add(event, repository, actor, item, label=label.name if label else None)

    def _reopen_or_close(
        self, repository: Repository, item: Item, actor: User, opened: bool | None, now: datetime
    ) -> str:
        if opened is None or opened == item.open or item.merged_at is not None:
            return "updated"
        item.closed_at = None if opened else now
        action = "reopened" if opened else "closed"
        self._record(repository, item, actor, action, now)
        if opened and item.kind is Kind.CHANGE:
            self._see_tips(item, self.tips_of(repository, item), now)  # its branches may have moved meanwhile
        return action

    def _see_tips(self, item: Item, tips: Tips, now: datetime) -> bool:
        """Take note of where a change's branches are; whether its head has moved."""
        previous, item.tips = item.tips, tips
        if previous.head_sha == tips.head_sha:
            item.versions[-1] = replace(item.versions[-1], base_sha=tips.base_sha)
            return False
        item.versions.append(Version(tips.head_sha, tips.base_sha, now))
        return True

    def _record_draft(
        self, repository: Repository, item: Item, actor: User, now: datetime, *, draft: bool
    ) -> None:
        item.draft = draft
        self._record(repository, item, actor, "convert_to_draft" if draft else "ready_for_review", now)
        state = "draft" if draft else "ready"
        self.system_note(item, actor, f"marked this merge request as **{state}**", now)

    def _record_edits(self, item: Item, actor: User, before: Before, now: datetime) -> None:
        if item.title != before.title:
            renamed = (before.title, item.title)
            if self.flavour is Flavour.GITHUB:
                event = ItemEvent(self.next_id(), "renamed", actor, now, renamed=renamed)
                item.events.append(event)
            # Of a title that only became one of a draft, GitLab says that it is a draft.
            if len({markup.without_draft(title) for title in renamed}) > 1:
                self.system_note(item, actor, "changed title from **{}** to **{}**".format(*renamed), now)
        if item.body != before.body:
            item.edits.append(TextEdit(self.next_id(), actor, now))
            # GitLab's history does not show what else changes when a task of a list is ticked
            # (`handle_description_change_note` of its `CommonSystemNotesService`).
            ticked = markup.ticked_task(before.body, item.body)
            note = f"marked the checklist item **{ticked}** as completed" if ticked else ""
            self.system_note(item, actor, note or "changed the description", now)

    def system_note(self, item: Item, actor: User, text: str, now: datetime) -> None:
        """Write a note as GitLab does by itself. GitHub has none."""
        if self.flavour is Flavour.GITLAB:
            item.comments.append(Comment(self.next_id(), actor, text, now, now, system=True))

    def _exists(self, repository: Repository, other: Item) -> HttpError:
        if self.flavour is Flavour.GITLAB:
            return HttpError(
                409, f"Another open merge request already exists for this source branch: !{other.number}"
            )
        text = f"A pull request already exists for {(other.source or repository).owner}:{other.head}."
        return HttpError(
            422,
            "Validation Failed",
            [{"resource": "PullRequest", "code": "custom", "message": text}],
        )
