"""Translates keys and variables of the polling agent's configuration that are not settings here.

The polling agent's files are `config.yaml`, `config_github.yaml` and `config_gitlab.yaml` of
https://github.com/notfolder/coding_agent at the commits 46238ff and b4da440 (the newest one when this was
written), with the variables of its `main.py`. All other keys of these files are settings here too and mean
the same. docs/migration/index.md shows `OLD_KEYS` and `OLD_VARIABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from coding_agent_core.platforms.registry import Platform, forge_module
from coding_agent_core.settings.reading import Document, KeyPath, dotted


@dataclass(frozen=True)
class OldKey:
    """A key or variable of the polling agent.

    Attributes:
        name: the dotted key, with `[]` after a list, or the name of the variable.
        honored_as: the setting that takes the value; empty if the value is ignored.
        advice: tells people why, and what to write instead.
    """

    name: str
    honored_as: str
    advice: str

    @property
    def sentence(self) -> str:
        how = f"read as `{self.honored_as}`" if self.honored_as else "ignored"
        return f"{how}: {self.advice}"


_FORGE_SERVER = OldKey(
    "mcp_servers[] named github or gitlab",
    "",
    "the agent itself reads and writes the forge, and the model gets no token; remove the entry. "
    "A server with a token in its `env`, or with a `url`, is kept",
)
_SERVER_PROMPT = OldKey(
    "mcp_servers[].system_prompt", "instructions", "write what the model should know about tools there"
)
_AUTHOR = OldKey(
    "github.query",
    "github.query",
    "with `author:@me` added, because the polling agent searched only items that its own account opened "
    "unless an assignee was set; remove the MCP server `github` to poll by `owner` and `query` alone",
)
_KEY_NAME = OldKey(
    "llm.openai.api_key_env", "llm.openai.api_key", 'write `api_key: "${NAME}"` with the variable\'s name'
)
_KEY_AS_NAME = OldKey(
    "llm.openai.api_key: OPENAI_API_KEY",
    "llm.openai.api_key",
    'it is the name of a variable, not a key; write `api_key: "${OPENAI_API_KEY}"`',
)
_FUNCTION_CALLING = OldKey(
    "llm.function_calling", "", "the agent always uses native tool calls; choose a model that supports them"
)
_SUMMARY_PROMPT = OldKey(
    "context_storage.summary_prompt",
    "",
    "long contexts are summarized with a built-in prompt; write what the model must keep in mind in "
    "`instructions`",
)
_SERVER_VARIABLE = OldKey(
    'mcp_servers[].env: NAME: ""',
    "mcp_servers[].env",
    'an empty value stood for the agent\'s own variable of that name; write `NAME: "${NAME}"`',
)
_API_SERVER = OldKey(
    "api_server",
    "",
    "the service of per-user settings and the agent take their key from USER_CONFIG_API_KEY",
)
_GITHUB_BOT = OldKey("github.bot_name", "github.account", "an `account` wins over it; write `account`")
_GITLAB_BOT = OldKey(
    "gitlab.bot_name",
    "gitlab.assignee",
    "and as `gitlab.account`, because the poll selected the items that are assigned to the bot; "
    "values of these two win over it; write `assignee` and `account`",
)
_OWNER = OldKey(
    "gitlab.owner", "gitlab.assignee", "an `assignee` or `bot_name` wins over it; write `assignee`"
)
_NO_PAUSE = "tasks in a queue cannot be paused; remove the key"
_PAUSED = OldKey("github.paused_label, gitlab.paused_label", "", _NO_PAUSE)
_STOPPED = OldKey(
    "github.stopped_label, gitlab.stopped_label",
    "",
    "a cancelled task loses the `processing_label` and gets no label of its own, and the comment shows "
    "*cancelled*; remove the key",
)
_PROJECT = OldKey(
    "gitlab.project_id: NAME",
    "",
    "the polling agent never read it, and a name alone does not identify a project; write the number, or the "
    "full path GROUP/PROJECT",
)
_QUERY = OldKey(
    "gitlab.query: state=…&labels=…",
    "",
    "it is a search text, not URL parameters; the poll always asks for open items with the label",
)

_DATABASE = "tasks are stored in the queue or as AgentTasks; no database is needed"
_EXECUTOR = (
    "commands always run in the workspace; its image has the programs, `consumer.workspace` the limits, "
    "and `egress` the hosts"
)
_BROWSER = (
    "no browser is started; to give the model one, add a server with its `command` to `mcp_servers`, whose "
    "program is in the agent's image"
)
_EDITOR = "the agent has its own tools to edit files"
_CONVERSION = "an issue always gets one pull or merge request, which links the issue"
_RULES = "the agent always reads AGENTS.md and CLAUDE.md; move the text of other files there"
_SECTIONS: tuple[OldKey, ...] = (
    _API_SERVER,
    OldKey("database", "", _DATABASE),
    OldKey(
        "planning",
        "",
        "the model plans by itself, without configured phases; write what it should consider in "
        "`instructions`",
    ),
    OldKey(
        "context_inheritance",
        "",
        "an attempt reads the whole conversation of its item, and continues on the branch that was pushed",
    ),
    OldKey("issue_to_mr_conversion", "", _CONVERSION),
    OldKey("project_agent_rules", "", _RULES),
    OldKey("file_list_context", "", "the agent lists the files that it needs"),
    OldKey(
        "pause_resume",
        "",
        "a stopped consumer returns its task to the queue by itself; on Kubernetes, "
        "`kubectl agenttask suspend` pauses a task",
    ),
    OldKey(
        "continuous",
        "",
        "`--mode consumer` always waits for tasks, and `--mode producer --loop` polls every "
        "`scheduling.interval` seconds",
    ),
    OldKey("command_executor", "", _EXECUTOR),
    OldKey("text_editor_mcp", "", _EDITOR),
    OldKey("playwright_mcp", "", _BROWSER),
)
"""Whole sections of the file that are ignored."""

OLD_KEYS: tuple[OldKey, ...] = (
    _FORGE_SERVER,
    _SERVER_PROMPT,
    _SERVER_VARIABLE,
    _AUTHOR,
    _GITHUB_BOT,
    _GITLAB_BOT,
    _OWNER,
    _PAUSED,
    _STOPPED,
    _PROJECT,
    _QUERY,
    _KEY_NAME,
    _KEY_AS_NAME,
    _FUNCTION_CALLING,
    _SUMMARY_PROMPT,
    *_SECTIONS,
)
OLD_VARIABLES: tuple[OldKey, ...] = (
    OldKey("FUNCTION_CALLING", "", _FUNCTION_CALLING.advice),
    OldKey("GITHUB_MCP_COMMAND", "", "the agent itself reads and writes the forge; unset it"),
    OldKey("API_SERVER_KEY", "", _API_SERVER.advice),
    *(
        OldKey(f"DATABASE_{part}", "", _DATABASE)
        for part in ("URL", "HOST", "PORT", "NAME", "USER", "PASSWORD")
    ),
    OldKey("COMMAND_EXECUTOR_ENABLED", "", _EXECUTOR),
    *(
        OldKey(f"EXECUTOR_{part}", "", _EXECUTOR)
        for part in ("DEFAULT_ENVIRONMENT", "BASE_IMAGE", "CPU_LIMIT", "MEMORY_LIMIT", "TIMEOUT")
    ),
    OldKey("TEXT_EDITOR_MCP_ENABLED", "", _EDITOR),
    OldKey("PLAYWRIGHT_MCP_ENABLED", "", _BROWSER),
    OldKey("ISSUE_TO_MR_ENABLED", "", _CONVERSION),
    OldKey("PROJECT_AGENT_RULES_ENABLED", "", _RULES),
)

_DEFAULT_QUERY = forge_module(Platform.GITHUB, "settings").SECTION.model_fields["query"].default
_PARAMETERS = re.compile(r"\w+=[^&]*(&\w+=[^&]*)*")
_FORGES = ("github", "gitlab")


def ignored_variables(environment: Mapping[str, str]) -> Iterable[str]:
    """Yield a sentence for each variable that the polling agent read and that is ignored here."""
    for old in OLD_VARIABLES:
        if environment.get(old.name):
            yield f"{old.name}: {old.sentence}"


def translated(document: Document, environment: Mapping[str, str], name: str) -> list[str]:
    """Replace the polling agent's keys in a document. Return warnings about these keys and its variables.

    Args:
        name: the document's file.
    """
    translation = Translation(document.data, environment)
    notices = [(document.line(path) or 0, dotted(path), text) for path, text in translation.notices]
    warnings = [
        f"{name}, line {line}: {key}: {text}" for line, key, text in sorted(notices, key=itemgetter(0))
    ]
    if translation.kept_servers is not None:
        document.keep_entries("mcp_servers", translation.kept_servers)
    return [*warnings, *ignored_variables(environment)]


class Translation:
    """Replaces the polling agent's keys in a file's data by settings.

    Args:
        data: the data, which is changed.
        environment: the variables; empty for data from people who must not read our variables.

    Attributes:
        notices: each key that was replaced or removed, and a sentence about it.
        kept_servers: the former indices of the remaining entries of `mcp_servers`; `None` if no entry was the
            polling agent's way to the forge.
    """

    def __init__(self, data: dict[str, Any], environment: Mapping[str, str]) -> None:
        self.notices: list[tuple[KeyPath, str]] = []
        self.kept_servers: list[int] | None = None
        self._data = data
        self._environment = environment
        for old in _SECTIONS:
            if old.name in data:
                del data[old.name]
                self._notice(old, old.name)
        self._context_storage()
        self._llm()
        self._servers()
        self._bot_names()
        self._gitlab()
        self._states()
        if self.kept_servers is not None:
            self._author()

    def _notice(self, old: OldKey, *path: str | int) -> None:
        self.notices.append((path, old.sentence))

    def _section(self, *path: str) -> dict[str, Any]:
        """Return the mapping at a path; empty if there is none."""
        found: Any = self._data
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def _context_storage(self) -> None:
        if self._section("context_storage").pop("summary_prompt", None) is not None:
            self._notice(_SUMMARY_PROMPT, "context_storage", "summary_prompt")

    def _llm(self) -> None:
        if self._section("llm").pop("function_calling", None) is not None:
            self._notice(_FUNCTION_CALLING, "llm", "function_calling")
        openai = self._section("llm", "openai")
        name = openai.pop("api_key_env", None)
        if isinstance(name, str):
            self._notice(_KEY_NAME, "llm", "openai", "api_key_env")
            openai.setdefault("api_key", name)
        elif openai.get("api_key") == "OPENAI_API_KEY":
            self._notice(_KEY_AS_NAME, "llm", "openai", "api_key")
            name = "OPENAI_API_KEY"
        if name is not None and openai.get("api_key") == name:
            del openai["api_key"]
            if value := self._environment.get(name):
                openai["api_key"] = value

    def _servers(self) -> None:
        servers = self._data.get("mcp_servers")
        if not isinstance(servers, list):
            return
        indices = [index for index, server in enumerate(servers) if _reaches_forge(server)]
        for index in indices:
            self._notice(_FORGE_SERVER, "mcp_servers", index)
        for index, server in enumerate(servers):
            if index in indices or not isinstance(server, dict):
                continue
            text = server.pop("system_prompt", None)
            if text is not None:
                ours = self._data.get("instructions")
                self._data["instructions"] = f"{ours}\n\n{text}" if ours else text
                self._notice(_SERVER_PROMPT, "mcp_servers", index, "system_prompt")
            self._server_variables(server.get("env"), index)
        if indices:
            self.kept_servers = [index for index in range(len(servers)) if index not in indices]
            self._data["mcp_servers"] = [servers[index] for index in self.kept_servers]

    def _server_variables(self, env: object, index: int) -> None:
        if not isinstance(env, dict):
            return
        for name in [name for name, value in env.items() if value == ""]:
            del env[name]
            if value := self._environment.get(name):
                env[name] = value
            self._notice(_SERVER_VARIABLE, "mcp_servers", index, "env", name)

    def _bot_names(self) -> None:
        for forge, old, keys in (
            ("github", _GITHUB_BOT, ("account",)),
            ("gitlab", _GITLAB_BOT, ("assignee", "account")),
        ):
            section = self._section(forge)
            name = section.pop("bot_name", None)
            if name is None:
                continue
            for key in keys:
                if not section.get(key):
                    section[key] = name
            self._notice(old, forge, "bot_name")

    def _states(self) -> None:
        for forge in _FORGES:
            for key, old in (("paused_label", _PAUSED), ("stopped_label", _STOPPED)):
                if self._section(forge).pop(key, None) is not None:
                    self._notice(old, forge, key)

    def _gitlab(self) -> None:
        gitlab = self._section("gitlab")
        owner = gitlab.pop("owner", None)
        if owner:
            if not gitlab.get("assignee"):
                gitlab["assignee"] = owner
            self._notice(_OWNER, "gitlab", "owner")
        self._drop_if(gitlab, "project_id", _is_bare_name, _PROJECT)
        self._drop_if(gitlab, "query", lambda value: bool(_PARAMETERS.fullmatch(value)), _QUERY)

    def _drop_if(self, gitlab: dict[str, Any], key: str, matches: Callable[[str], bool], old: OldKey) -> None:
        value = gitlab.get(key)
        if isinstance(value, str) and matches(value):
            del gitlab[key]
            self._notice(old, "gitlab", key)

    def _author(self) -> None:
        github = self._section("github")
        query = github.get("query", _DEFAULT_QUERY)
        if github.get("assignee") or self._environment.get("GITHUB_BOT_NAME") or not isinstance(query, str):
            return
        if github and "author:" not in query:
            github["query"] = f"{query} author:@me".strip()
            self._notice(_AUTHOR, "github", "query")


def _reaches_forge(server: object) -> bool:
    """Whether an entry is one of the MCP servers through which the polling agent reached the forge.

    The polling agent gave them the token with its whole environment, and also for an empty value in `env`.
    Here, a server gets only its `env`.
    """
    if not isinstance(server, dict) or server.get("mcp_server_name") not in _FORGES:
        return False
    env = server.get("env") or {}
    if not server.get("command") or not isinstance(env, dict):
        return False
    return not any("TOKEN" in name and value for name, value in env.items())


def _is_bare_name(value: str) -> bool:
    return bool(value) and "/" not in value and not value.isdigit()
