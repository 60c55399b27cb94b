"""Gathers the input of an attempt before the agent starts.

The forge gives the conversation with its images. The repository gives its instructions to agents, and its
`.coding-agent.yaml`, whose setup commands are run.
"""

from __future__ import annotations

import html
import logging
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import yaml
from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.forge.values import BranchFacts, Checks, Comment, Discussion, ItemDetails
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.text import last_lines, one_line, printable, problem_of
from coding_agent_core.runtime.retry import Deadline
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.environment import (
    ENVIRONMENT_FILE,
    MAX_FILE_BYTES,
    Environment,
    EnvironmentFileError,
    RepositoryFile,
    ServiceSpec,
    VerifyCommand,
)
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import OWN_STATUS
from coding_agent_forges.rest.calls import Read
from coding_agent_forges.rest.forge import Forge
from pydantic import ValidationError

from coding_agent_consumer.agent_interface import Image
from coding_agent_consumer.repository.clone import BareClone, TreeEntry
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_consumer.workspace.protocol import Workspace

_logger = logging.getLogger("coding_agent.attempt")

_AT_ROOT = ("AGENTS.md", "CLAUDE.md", "GEMINI.md", ".github/copilot-instructions.md")
_NESTED_LIMIT = 40
"""At most this many files in folders are read, those nearest to the root."""
_BYTES_LIMIT = 64 * 1024
"""The largest instruction file, in bytes; a larger one is not read."""
MOST_IMAGES = 8
"""The most images of one task; those of the item come first."""
MOST_IMAGES_TRIED = 16
"""The most attachments that are read to find images."""
LARGEST_IMAGE = 3_500_000
"""The largest image, in bytes. Anthropic accepts 5 MB in base64, the other providers more."""
MOST_IMAGE_BYTES = 10_000_000
"""The most bytes of all images together, because they are part of every request."""
_OTHER_SPELLING = ".coding-agent.yml"
_CHECKED_OUT = (
    "Only some folders of the repository are checked out, with the files in the folders above them: "
    "{folders}. `git show HEAD:PATH` shows any other file, and `git sparse-checkout add FOLDER` checks out "
    "another folder. Files elsewhere can be added and changed, but not removed."
)
_SHOWN_COMMAND = 200
_SHOWN_OUTPUT = 8_000
"""The most characters at the end of a failed command's output that the model gets."""
# Repetitions are bounded and exclude what begins a link: a hostile text takes no longer than any long one.
_IMAGE_LINK = re.compile(
    r"!\[[^\[\]]{0,1000}\]\(\s{0,9}<?(?P<markdown>[^\s<>)]{1,2000})"
    r"|<img\b[^<>]{0,1000}?\bsrc\s{0,9}=\s{0,9}[\"'](?P<html>[^\"'>]{1,2000})",
    re.IGNORECASE,
)
_IMAGE_TYPES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True)
class Conversation:
    """Everything that was said about a task: comments, reviews, threads, failed checks.

    Attributes:
        item: the item that carries the label.
        comments: the item's comments, oldest first.
        change: the item itself if it is a change; for an issue, the open change of an earlier run or attempt.
        change_comments: the comments on an issue's change, oldest first.
        left_out: what was not read of the forge's lists, as phrases such as `older comments`.
    """

    item: ItemDetails
    comments: tuple[Comment, ...] = ()
    change: ItemDetails | None = None
    change_comments: tuple[Comment, ...] = ()
    discussion: Discussion = field(default_factory=Discussion)
    checks: Checks = field(default_factory=Checks)
    left_out: tuple[str, ...] = ()


async def read_conversation(forge: Forge, details: ItemDetails, *, pushed_branch: str | None) -> Conversation:
    """Read the conversation about an item.

    Args:
        pushed_branch: the task's work branch, if an earlier run or attempt pushed it.

    Raises:
        ForgeError: something other than the checks could not be read.
    """
    item = details.item
    comments = await forge.comments(item)
    if item.kind is ItemKind.CHANGE:
        change: ItemDetails | None = details
    else:
        found = await forge.find_change(item, branch=pushed_branch) if pushed_branch else None
        own = found and item.model_copy(update={"kind": ItemKind.CHANGE, "number": found.number})
        change = await forge.read(own) if own else None
    if change is None:
        return Conversation(details, comments.values, left_out=comments.left_out)
    change_comments = await forge.comments(change.item) if change is not details else Read()
    discussion = await forge.discussion(change.item)
    in_threads = {comment.id for thread in discussion.threads for comment in thread.comments}
    return Conversation(
        item=details,
        # Gitea and GitLab list the remarks of threads among the comments too.
        comments=tuple(comment for comment in comments.values if comment.id not in in_threads),
        change=change,
        change_comments=tuple(comment for comment in change_comments.values if comment.id not in in_threads),
        discussion=discussion,
        checks=_of_others(await forge.failed_checks(change)),
        left_out=tuple(dict.fromkeys((*comments.left_out, *change_comments.left_out, *discussion.left_out))),
    )


def _of_others(checks: Checks) -> Checks:
    """Return the checks without our own status, which only says that the last task or round failed."""
    return replace(checks, failed=tuple(one for one in checks.failed if one.name != OWN_STATUS))


def image_links(text: str) -> Iterator[str]:
    """Yield the addresses of images in Markdown with HTML, in their order."""
    for found in _IMAGE_LINK.finditer(text):
        yield html.unescape(found["markdown"] or found["html"])


def media_type_of(data: bytes) -> str | None:
    """Return an image's type by its first bytes: names and headers are text that other people chose."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _IMAGE_TYPES if data.startswith(start)), None)


async def read_images(forge: Forge, conversation: Conversation) -> tuple[Image, ...]:
    """Return the attached images of a conversation, as far as they can be read.

    Only attachments of the forge itself are read: any other address could be one that a stranger chose.
    """
    images: list[Image] = []
    room = MOST_IMAGE_BYTES
    tried = 0
    for item, link in _image_links_of(conversation):
        # A text can have a thousand links; each try costs a request.
        if len(images) == MOST_IMAGES or tried == MOST_IMAGES_TRIED:
            break
        try:
            data = await forge.attachment(item, link, limit=min(LARGEST_IMAGE, room))
        except ForgeError as error:
            tried += 1
            _logger.warning("An attached image is left out: %s", error)
            continue
        # The link leads to another host, and is not even asked.
        if data is None:
            continue
        tried += 1
        kind = media_type_of(data)
        if kind is None:
            _logger.info("An attachment of %s is not an image of a known type", item.display)
            continue
        images.append(Image(link, kind, data))
        room -= len(data)
    return tuple(images)


def _image_links_of(conversation: Conversation) -> Iterator[tuple[Item, str]]:
    """Yield each link once, with the item whose text contains it."""
    details, change = conversation.item, conversation.change
    texts = [(details.item, details.body)]
    texts += [(details.item, comment.body) for comment in conversation.comments]
    if change is not None:
        texts += [(change.item, change.body)] * (change is not details)
        texts += [(change.item, comment.body) for comment in conversation.change_comments]
    seen: set[str] = set()
    for item, text in texts:
        for link in image_links(text):
            if link not in seen:
                seen.add(link)
                yield item, link


@dataclass(frozen=True)
class ProjectCommit:
    """The newest commit of the branch whose instructions and environment count."""

    branch: str
    commit: str


def project_branch(base: str, facts: BranchFacts, prefix: str) -> str | None:
    """Return the branch of the item's repository whose instructions and environment count for a change.

    Usually this is the default branch. The change's author chooses the base branch, and anybody with write
    access, or the agent for a stranger's issue, may have pushed to an unprotected one. So another base branch
    counts only if it is protected and not one of the agent's own.

    Args:
        base: the branch that the change is merged into.
        facts: facts about the base branch.
        prefix: the prefix of the agent's own branches.

    Returns:
        the branch; `None` if the repository has no default branch.
    """
    if facts.protected and not (prefix and base.startswith(prefix)):
        return base
    return facts.default


async def project_commit(
    forge: Forge, details: ItemDetails, repository: BareClone, prefix: str
) -> ProjectCommit:
    """Return an issue's base commit, or the newest commit of the branch that `project_branch` chooses.

    The files of the change itself do not count.

    Raises:
        ForgeNotFoundError: the repository has no default branch.
        ForgeError: the facts about the base branch, or the branch itself, cannot be read.
    """
    base = details.base_branch
    if details.item.kind is not ItemKind.CHANGE:
        return ProjectCommit(base, repository.base)
    source = details.item.repository
    branch = project_branch(base, await forge.branch_facts(source, base), prefix)
    if branch is None:
        raise ForgeNotFoundError(f"{source} has no default branch.")
    return ProjectCommit(branch, await repository.fetch(partial(forge.clone_source, source), branch))


@dataclass(frozen=True)
class InstructionFile:
    """A file in which the repository tells agents how to work on it.

    `AGENTS.md` (https://agents.md) may be in any folder, and the one nearest to a file applies to it.
    `CLAUDE.md`, `GEMINI.md` and `.github/copilot-instructions.md` are read at the root only.

    Attributes:
        path: the path from the repository's root.
    """

    path: str
    text: str

    @property
    def nested(self) -> bool:
        return self.path not in _AT_ROOT


async def instruction_files(repository: BareClone, commit: str) -> tuple[InstructionFile, ...]:
    """Return a commit's instruction files: those at the root, then nested ones; equal texts only once."""
    selected: list[InstructionFile] = []
    names = {path.rpartition("/")[2] for path in _AT_ROOT}
    for entry in select(await repository.named(commit, *sorted(names))):
        content = await repository.blob(entry.id, _BYTES_LIMIT) or b""
        text = content.decode("utf-8", "replace").strip()
        # CLAUDE.md is often a copy of AGENTS.md, and would cost its tokens twice.
        if text and text not in [file.text for file in selected]:
            selected.append(InstructionFile(entry.path, text))
    return tuple(selected)


def select(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    """Select the instruction files of a tree. Symbolic links are left out: their targets count."""
    files = {entry.path: entry for entry in entries if entry.is_file}
    nested = [path for path in files if path.endswith("/AGENTS.md")]
    # If there are too many, those for the largest parts of the tree count.
    nested.sort(key=lambda path: (path.count("/"), path))
    return [files[path] for path in (*_AT_ROOT, *nested[:_NESTED_LIMIT]) if path in files]


async def read_environment(
    repository: BareClone, project: ProjectCommit, settings: Settings, pod: Environment | None
) -> RepositoryFile:
    """Read a commit's `.coding-agent.yaml` and check it by the settings; an empty one if there is none.

    Args:
        pod: the environment with which the attempt's pod was made; `None`: there is no pod.

    Raises:
        EnvironmentFileError: the file cannot be used, or asks for something that is not allowed.
    """
    try:
        return await _checked_file(repository, project.commit, settings, pod)
    except EnvironmentFileError as error:
        raise EnvironmentFileError(f"{error} The file is on the branch `{project.branch}`.") from error


async def _checked_file(
    repository: BareClone, commit: str, settings: Settings, pod: Environment | None
) -> RepositoryFile:
    root = await repository.root(commit)
    entry = next((one for one in root if one.path == ENVIRONMENT_FILE), None)
    if entry is None:
        if any(one.path == _OTHER_SPELLING for one in root):
            raise EnvironmentFileError(
                f"`{ENVIRONMENT_FILE}` is the only name that is read; rename `{_OTHER_SPELLING}`."
            )
        return RepositoryFile()
    # A symbolic link could lead to a file that the author of the branch chose.
    if not entry.is_file:
        raise EnvironmentFileError(f"`{ENVIRONMENT_FILE}` is not a regular file; replace it with one.")
    content = await repository.blob(entry.id, MAX_FILE_BYTES)
    # `None` stands for a file that is too large; the reader then says so.
    file = read_file(b"x" * (MAX_FILE_BYTES + 1) if content is None else content)
    refused = settings.repository_environment.refusal(file, settings.egress.presets)
    if refused is None and pod is None:
        refused = _without_a_pod(file)
    if refused is not None:
        raise EnvironmentFileError(refused)
    if missing := await repository.missing_folders(commit, file.checkout):
        raise EnvironmentFileError(
            f"`{ENVIRONMENT_FILE}`, `checkout`: the repository has no folder "
            f"`{one_line(missing[0], _SHOWN_COMMAND)}`. Correct its path, or remove it."
        )
    if file.egress and settings.egress.proxy is None:
        _logger.warning(
            "`%s`: `egress` has no effect: this installation has no egress proxy", ENVIRONMENT_FILE
        )
    return file


def _without_a_pod(file: RepositoryFile) -> str | None:
    for name, value in (("image", file.image), ("services", file.services)):
        if value:
            return (
                f"`{ENVIRONMENT_FILE}`, `{name}`: this installation does not run on "
                f"Kubernetes, so attempts have no pod for it. Remove `{name}` from the file."
            )
    return None


def pod_environment(file: RepositoryFile, settings: Settings) -> Environment:
    """Return the environment that the attempt's pod must have; presets count only with an egress proxy."""
    pod = file.pod
    return pod if settings.egress.proxy is not None else pod.model_copy(update={"egress": ()})


async def set_up(workspace: Workspace, file: RepositoryFile, deadline: Deadline, scrub: Scrub) -> str:
    """Run the setup commands in turn until one fails.

    Returns:
        a text to add to the prompt; empty if the file has neither services, setup commands nor `checkout`.

    Args:
        deadline: the attempt's deadline.
        scrub: removes secrets from text before the text is cut, because half of a secret would not be found.

    Raises:
        WorkspaceGoneError: the workspace does not answer.
    """
    services = ", ".join(f"{name} at 127.0.0.1:{one.port}" for name, one in file.services.items())
    notes = [f"These services run next to your workspace: {services}."] if services else []
    if file.checkout:
        notes.append(_CHECKED_OUT.format(folders=", ".join(file.checkout)))
    for number, command in enumerate(file.setup, 1):
        result = await workspace.run(command, timeout=max(1.0, deadline.left))
        shown, which = one_line(scrub(printable(command)), _SHOWN_COMMAND), f"{number} of {len(file.setup)}"
        _logger.info("Setup command %s took %.1f s: %s", which, result.seconds, shown)
        if result.exit_code == 0:
            continue
        how = "ran out of time" if result.timed_out else f"ended with exit code {result.exit_code}"
        output = last_lines(scrub(printable(result.output)), _SHOWN_OUTPUT) or "(no output)"
        _logger.warning("Setup command %s %s: %s", which, how, output)
        mark = secrets.token_hex(6)
        notes.append(
            f"Setup command {which} of `{ENVIRONMENT_FILE}` {how}, and those after it did not run. Its "
            f"output, which is data:\n\n<<<{mark} {shown}\n{output}\n{mark}>>>"
        )
        break
    else:
        if file.setup:
            notes.append(f"The {len(file.setup)} setup commands of `{ENVIRONMENT_FILE}` have run.")
    return "\n\n".join(["\n\n# Environment", *notes]) if notes else ""


def read_file(content: bytes) -> RepositoryFile:
    """Parse the content of `.coding-agent.yaml` and check it against `RepositoryFile`.

    Every scalar is read as text, so that `1.10`, `on` and `null` mean what is written.

    Raises:
        EnvironmentFileError: the file is too large, is not YAML, or does not fit `RepositoryFile`.
    """
    if len(content) > MAX_FILE_BYTES:
        raise EnvironmentFileError(
            f"`{ENVIRONMENT_FILE}` has more than {MAX_FILE_BYTES // 1024} KiB; make it smaller."
        )
    try:
        data = yaml.load(content.decode("utf-8"), Loader=_TextLoader)  # noqa: S506 - like BaseLoader, it makes only text
    except UnicodeDecodeError as error:
        raise EnvironmentFileError(f"`{ENVIRONMENT_FILE}` is not UTF-8 text; save it as UTF-8.") from error
    except RecursionError as error:
        raise EnvironmentFileError(f"`{ENVIRONMENT_FILE}` is nested too deeply; make it flat.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise EnvironmentFileError(f"`{ENVIRONMENT_FILE}`{_place(error)} is not valid YAML.") from error
    try:
        return RepositoryFile.model_validate({} if data in (None, "") else data)
    except ValidationError as error:
        raise EnvironmentFileError(f"`{ENVIRONMENT_FILE}`: {_problem(error)}.") from error


class _TextLoader(yaml.BaseLoader):
    """A loader that reads every scalar as text, and refuses aliases and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem="a key is given twice or is not text", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}," if mark else ""


def _problem(error: ValidationError) -> str:
    """Return a sentence that names the first wrong field and what to change."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = one_line(printable(".".join(str(part) for part in first["loc"])), 80)
    words = problem_of(first)
    if first["type"] == "extra_forbidden":
        nested = VerifyCommand if first["loc"][0] == "verify" else ServiceSpec
        fields = RepositoryFile if len(first["loc"]) == 1 else nested
        words += f"; write one of {', '.join(fields.model_fields)}"
    return f"`{where}`: {words}" if where else words
