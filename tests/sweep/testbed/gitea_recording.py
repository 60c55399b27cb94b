"""Records what a real Gitea sends and answers: `python -m tests.sweep.testbed.gitea_recording [FOLDER]`.

A story of an issue and two pull requests, one step a file. Names of this machine, ports and what no reader of
a webhook needs are left out; ids and times are those of the run.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coding_agent_testbed.gitea import Api, GiteaServer, Sample, WebSession, find, make_sample

from tests.fixtures.hook_receiver import HookReceiver, Received, receiving

FOLDER = Path(__file__).resolve().parents[2] / "data" / "gitea"
SECRET = "hook-secret-4242"
LABEL = "coding agent"
FILE = "pricing/discount.py"
_NAMED = ("content-type", "user-agent")
_USER = ("id", "login", "username", "full_name", "email", "html_url", "is_admin")
_REPOSITORY = (
    *("id", "owner", "name", "full_name", "private", "fork", "archived", "empty"),
    *("html_url", "url", "clone_url", "default_branch", "permissions"),
)


def trimmed(value: Any) -> Any:
    """JSON without the parts of users and repositories that nobody reads, such as avatars and counters."""
    if isinstance(value, list):
        return [trimmed(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    keys: Iterable[str] = value
    if "login" in value and "avatar_url" in value:
        keys = _USER
    elif "full_name" in value and "clone_url" in value:
        keys = _REPOSITORY
    return {key: trimmed(value[key]) for key in keys if key in value}


def headers(received: Received) -> dict[str, str]:
    """The headers that Gitea chose: what they describe and how they are signed."""
    return {k: v for k, v in sorted(received.headers.items()) if k.startswith("x-") or k in _NAMED}


def kind(received: Received) -> str:
    """`issues/label_updated`: the event and, where there is one, the action."""
    action = received.payload.get("action")
    event = received.headers["x-gitea-event"]
    return f"{event}/{action}" if action else event


@dataclass
class Story:
    """People act on a repository, and a receiver writes down what Gitea sends.

    Gitea sends through queues, and pushes through one of their own: what a step caused can come after what
    the next one did.
    """

    server: GiteaServer
    sample: Sample
    receiver: HookReceiver
    hook: int = 0
    steps: dict[str, list[Received]] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: list[Received] = field(default_factory=list)

    def step(self, name: str, *kinds: str, act: Callable[[], Any]) -> Any:
        """Act, and wait for a webhook of each kind; what the act returned: of a push, its commit."""
        result = act()
        self.steps[name] = [self._take(kind, result) for kind in kinds]
        return result

    def _take(self, wanted: str, result: Any) -> Received:
        def fits(delivery: Received) -> bool:
            if any(delivery is entry for entry in self.taken) or kind(delivery) != wanted:
                return False
            return wanted != "push" or result in (None, delivery.payload["after"])

        found = self.receiver.wait_for(fits)
        self.taken.append(found)
        return found

    def left_over(self) -> list[Received]:
        """What came without a step's asking for it."""
        return [
            entry for entry in self.receiver.deliveries if not any(entry is known for known in self.taken)
        ]

    def answer(self, name: str, api: Api, path: str, **query: Any) -> None:
        """Write down what the API answers, refusals included."""
        answer = api.get(path, **query)
        paging = {key: answer.headers[key] for key in ("link", "x-total-count") if key in answer.headers}
        self.answers[name] = {
            "path": path,
            "query": query,
            "status": answer.status_code,
            "headers": paging,
            "body": trimmed(answer.json()) if answer.content else None,
        }

    def plain(self, text: str) -> str:
        """The text with the ports of every run."""
        port = self.receiver.url.rsplit(":", 1)[1].split("/")[0]
        return text.replace(f"127.0.0.1:{self.server.port}", "127.0.0.1:3000").replace(
            f"127.0.0.1:{port}", "127.0.0.1:8080"
        )

    def write(self, folder: Path) -> None:
        """Write one file for each step and each answer."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.json"):
            old.unlink()
        for name, deliveries in self.steps.items():
            recorded = [
                {"event": kind(entry), "headers": headers(entry), "body": trimmed(entry.payload)}
                for entry in deliveries
            ]
            self._write(folder / f"webhook_{name}.json", recorded)
        for name, answer in self.answers.items():
            self._write(folder / f"answer_{name}.json", answer)

    def _write(self, file: Path, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
        file.write_text(self.plain(text) + "\n", encoding="utf-8")


def tell(server: GiteaServer, sample: Sample, receiver: HookReceiver) -> Story:
    """The whole story: what happened, in order, and how the API shows it afterwards."""
    story = Story(server, sample, receiver)
    with server.api() as admin:
        story.hook = admin.add_hook(sample.repository, receiver.url, SECRET)
        story.answer("server_version", admin, "/version")
    with (
        server.api(sample.maintainer) as person,
        server.api(sample.bot) as bot,
        WebSession(server.url, sample.repository, sample.maintainer) as page,
    ):
        notes = {"NOTES.md": "Prices are in cents.\n"}
        story.step(
            "main_pushed", "push", act=lambda: person.commit(sample.repository, "main", notes, "Add notes")
        )
        # The repository's first commit, which is older than the hook, may have been sent too.
        story.taken.extend(story.left_over())
        _issue(story, person, page)
        _pull(story, person, bot, page)
        _rights(story, bot)
    with WebSession(server.url, sample.repository, sample.admin) as page:
        _redelivery(story, page)
    return story


def _issue(story: Story, person: Api, page: WebSession) -> None:
    repository, step = story.sample.repository, story.step
    number = step(
        "issue_opened",
        "issues/opened",
        act=lambda: person.create_issue(repository, "Discount starts too late", "See `pricing/discount.py`."),
    )
    step(
        "issue_opened_with_label",
        "issues/opened",
        "issues/label_updated",
        act=lambda: person.create_issue(repository, "Round to the cent", "", [LABEL]),
    )
    for name in ("label_added", "label_added_again"):
        step(name, "issues/label_updated", act=lambda: person.add_label(repository, number, LABEL))
    step(
        "second_label_added", "issues/label_updated", act=lambda: person.add_label(repository, number, "bug")
    )
    for name in ("label_removed", "label_removed_again"):
        step(name, "issues/label_updated", act=lambda: person.remove_label(repository, number, LABEL))
    ids = person.labels(repository)
    step(
        "labels_replaced",
        "issues/label_updated",
        act=lambda: person.call(
            "PUT", f"/repos/{repository}/issues/{number}/labels", {"labels": [ids[LABEL]]}
        ),
    )
    step("labels_cleared", "issues/label_cleared", act=lambda: person.clear_labels(repository, number))
    step(
        "issue_edited",
        "issues/edited",
        act=lambda: person.call(
            "PATCH", f"/repos/{repository}/issues/{number}", {"title": "Discount starts one late"}
        ),
    )
    comment = step(
        "comment_created",
        "issue_comment/created",
        act=lambda: person.comment(repository, number, "@coding-agent-bot please look"),
    )
    step(
        "comment_edited",
        "issue_comment/edited",
        act=lambda: person.edit_comment(repository, comment, "@coding-agent-bot please look again"),
    )
    step(
        "comment_deleted",
        "issue_comment/deleted",
        act=lambda: person.call("DELETE", f"/repos/{repository}/issues/comments/{comment}"),
    )
    step(
        "issue_assigned",
        "issues/assigned",
        act=lambda: person.call(
            "PATCH",
            f"/repos/{repository}/issues/{number}",
            {"assignees": [story.sample.maintainer.login]},
        ),
    )
    step(
        "issue_closed_with_comment",
        "issue_comment/created",
        "issues/closed",
        act=lambda: page.close(number, "This is no longer needed."),
    )
    step("issue_reopened", "issues/reopened", act=lambda: page.reopen(number))
    step("issue_closed", "issues/closed", act=lambda: person.set_state(repository, number, "closed"))
    step("issue_reopened_again", "issues/reopened", act=lambda: person.set_state(repository, number, "open"))
    step("label_put_back", "issues/label_updated", act=lambda: person.add_label(repository, number, LABEL))
    issue, owner = f"/repos/{repository}/issues/{number}", repository.split("/")[0]
    story.answer("issue", person, issue)
    story.answer("timeline", person, f"{issue}/timeline")
    story.answer("comments", person, f"{issue}/comments")
    story.answer("issue_labels", person, f"{issue}/labels")
    story.answer("repository", person, f"/repos/{repository}")
    story.answer("repository_labels", person, f"/repos/{repository}/labels")
    story.answer(
        "search",
        person,
        "/repos/issues/search",
        labels=LABEL,
        owner=owner,
        state="open",
        type="issues",
        limit=50,
    )
    story.answer(
        "issues_of_repository",
        person,
        f"/repos/{repository}/issues",
        labels=LABEL,
        state="open",
        type="issues",
        limit=50,
    )
    # A label that exists nowhere does not narrow the search, and a timeline without an entry is no list.
    story.answer(
        "search_label_absent", person, "/repos/issues/search", labels="absent", owner=owner, limit=50
    )
    quiet = step("issue_opened_again", "issues/opened", act=lambda: person.create_issue(repository, "Quiet"))
    story.answer("timeline_empty", person, f"/repos/{repository}/issues/{quiet}/timeline")


def _pull(story: Story, person: Api, bot: Api, page: WebSession) -> None:
    repository, step = story.sample.repository, story.step
    text = bot.read_file(repository, FILE)
    step(
        "branch_pushed",
        "push",
        act=lambda: bot.commit(repository, "agent/1", {FILE: fixed(text)}, "Start at the step", onto="main"),
    )
    number = step(
        "pull_opened",
        "pull_request/opened",
        act=lambda: bot.create_pull(repository, "agent/1", "Start at the step", "Closes #1"),
    )
    step(
        "pull_labeled",
        "pull_request/label_updated",
        act=lambda: person.add_label(repository, number, LABEL),
    )
    step(
        "pull_comment_created",
        "issue_comment/created",
        act=lambda: person.comment(repository, number, "Is a test missing?"),
    )
    step(
        "review_requested",
        "pull_request/review_requested",
        act=lambda: bot.call(
            "POST",
            f"/repos/{repository}/pulls/{number}/requested_reviewers",
            {"reviewers": [story.sample.maintainer.login]},
        ),
    )
    line = 1 + fixed(text)[: fixed(text).index("quantity >= pieces")].count("\n")
    step(
        "line_commented",
        "pull_request_comment/reviewed",
        act=lambda: page.comment_line_alone(number, FILE, line, "Is this right for one piece?"),
    )
    step(
        "line_replied",
        "issue_comment/created",
        act=lambda: page.reply(number, FILE, line, "And for none?"),
    )
    step(
        "review_comment",
        "pull_request_comment/reviewed",
        act=lambda: person.review(repository, number, "COMMENT", "Some thoughts", [(FILE, 1, "Why here?")]),
    )
    step(
        "review_rejected",
        "pull_request_rejected/reviewed",
        act=lambda: person.review(
            repository,
            number,
            "REQUEST_CHANGES",
            "Please add a test",
            [(FILE, 1, "This line needs a test."), (FILE, 2, "And this one.")],
        ),
    )
    head = step(
        "pull_synchronized",
        "push",
        "pull_request/synchronized",
        act=lambda: bot.commit(repository, "agent/1", {"tests/test_more.py": "ONE = 1\n"}, "Add a test"),
    )
    step(
        "review_approved",
        "pull_request_approved/reviewed",
        act=lambda: person.review(repository, number, "APPROVED", "Good"),
    )
    for state in ("pending", "failure", "success"):
        step(
            f"status_{state}",
            "status",
            act=partial(person.set_status, repository, head, state, "ci/tests", f"is {state}"),
        )
    pull = f"/repos/{repository}/pulls/{number}"
    story.answer("pull", person, pull)
    story.answer("pulls", person, f"/repos/{repository}/pulls", state="open", limit=50)
    story.answer("reviews", person, f"{pull}/reviews")
    for place, review in enumerate(story.answers["reviews"]["body"], start=1):
        name = f"review_comments_{place}_{review['state'].lower()}"
        story.answer(name, person, f"{pull}/reviews/{review['id']}/comments")
    story.answer("pull_timeline", person, f"/repos/{repository}/issues/{number}/timeline")
    story.answer("combined_status", person, f"/repos/{repository}/commits/{head}/status")
    story.answer("statuses", person, f"/repos/{repository}/commits/{head}/statuses")
    story.answer("branch", person, f"/repos/{repository}/branches/main")
    story.answer("pull_files", person, f"{pull}/files")
    step("pull_closed", "pull_request/closed", act=lambda: person.set_state(repository, number, "closed"))
    step("pull_reopened", "pull_request/reopened", act=lambda: person.set_state(repository, number, "open"))
    step(
        "pull_merged",
        "pull_request/closed",
        "issues/closed",
        "push",
        act=lambda: person.merge(repository, number),
    )
    story.answer("pull_merged", person, pull)


def fixed(text: str) -> str:
    """The sample's file with its defect fixed."""
    return text.replace("quantity > pieces", "quantity >= pieces")


def _rights(story: Story, bot: Api) -> None:
    """What a collaborator with `write` is told about others and about the branch, and who is refused."""
    repository = f"/repos/{story.sample.repository}"
    for role in ("bot", "maintainer", "stranger"):
        login = getattr(story.sample, role).login
        story.answer(f"permission_{role}_as_bot", bot, f"{repository}/collaborators/{login}/permission")
        story.answer(f"collaborator_{role}", bot, f"{repository}/collaborators/{login}")
        with story.server.api() as admin:
            story.answer(
                f"permission_{role}_as_admin", admin, f"{repository}/collaborators/{login}/permission"
            )
    with story.server.api() as admin:
        rule = {"rule_name": "main", "required_approvals": 1, "enable_status_check": True}
        admin.call("POST", f"{repository}/branch_protections", rule | {"status_check_contexts": ["ci/tests"]})
        story.answer("branch_protections_as_admin", admin, f"{repository}/branch_protections")
    story.answer("branch_protections_as_bot", bot, f"{repository}/branch_protections")
    story.answer("branch_protected", bot, f"{repository}/branches/main")
    story.answer("user", bot, "/user")
    story.answer("settings", bot, "/settings/api")
    story.answer("scope_missing", bot, "/notifications")
    story.answer("absent", bot, f"{repository}/issues/999")
    with Api(story.server.api_url, "0" * 40) as nobody:
        story.answer("token_wrong", nobody, "/user")


def _redelivery(story: Story, page: WebSession) -> None:
    first = story.steps["label_added"][0]
    story.step(
        "label_added_redelivered",
        kind(first),
        act=lambda: page.redeliver(story.hook, first.headers["x-gitea-delivery"]),
    )


def main() -> None:
    """Record into the folder of the tests' data, or into the one that is named."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with (
        tempfile.TemporaryDirectory() as scratch,
        receiving() as receiver,
        GiteaServer(Path(scratch), program=find()) as server,
    ):
        story = tell(server, make_sample(server), receiver)
        story.write(folder)
    for name, deliveries in story.steps.items():
        print(f"{name:<28} {', '.join(map(kind, deliveries))}")


if __name__ == "__main__":
    main()
