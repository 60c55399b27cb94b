"""Gitea's own configuration file (https://docs.gitea.com/administration/config-cheat-sheet)."""

import configparser
import io
from collections.abc import Mapping
from pathlib import Path

# Much less work than by default: a test's passwords protect nothing, and each login would take 50 ms.
_PASSWORD_HASH = "pbkdf2$10$50"


def app_ini(
    *,
    folder: Path,
    static: Path,
    address: str,
    port: int,
    root_url: str,
    hook_hosts: str,
    secret: str,
    actions: bool,
    as_root: bool,
) -> str:
    """The text of `app.ini`.

    Args:
        folder: holds everything that Gitea writes.
        static: holds the folders `templates`, `options` and `public`.
        address: the address to listen on.
        port: the port to listen on.
        root_url: the URL that Gitea shows to users and in webhooks, with a slash at its end.
        hook_hosts: the hosts to which webhooks may go, in the form of `[security] ALLOWED_HOST_LIST`.
        secret: signs cookies and encrypts what the database stores.
        actions: whether repositories may run workflows.
        as_root: whether root starts Gitea, which Gitea otherwise refuses.
    """
    sections: dict[str, dict[str, object]] = {
        "server": {
            "PROTOCOL": "http",
            "HTTP_ADDR": address,
            "HTTP_PORT": port,
            "ROOT_URL": root_url,
            "LOCAL_ROOT_URL": f"http://127.0.0.1:{port}/",
            "STATIC_ROOT_PATH": static,
            "DISABLE_SSH": True,
            "LFS_START_SERVER": False,
            "OFFLINE_MODE": True,
            "ALLOW_GRACEFUL_RESTARTS": False,
            "GRACEFUL_HAMMER_TIME": "5s",
        },
        "database": {
            "DB_TYPE": "sqlite3",
            "PATH": folder / "gitea.db",
            "SQLITE_JOURNAL_MODE": "WAL",
            "SQLITE_TIMEOUT": 20000,
        },
        "security": {
            "INSTALL_LOCK": True,
            "SECRET_KEY": secret,
            "PASSWORD_HASH_ALGO": _PASSWORD_HASH,
            "ALLOWED_HOST_LIST": hook_hosts,
        },
        "service": {
            "DISABLE_REGISTRATION": True,
            "REGISTER_EMAIL_CONFIRM": False,
            "ENABLE_NOTIFY_MAIL": False,
        },
        "repository": {"ROOT": folder / "repositories", "DEFAULT_BRANCH": "main"},
        "indexer": {"ISSUE_INDEXER_TYPE": "db"},
        "log": {"MODE": "console", "LEVEL": "Warn", "ROOT_PATH": folder / "log"},
        # Pull requests are checked for conflicts all the same: a queue of its own does that.
        "cron": {"ENABLED": False},
        "cron.update_checker": {"ENABLED": False},
        "actions": {"ENABLED": actions},
        "mailer": {"ENABLED": False},
        "ui": {"DEFAULT_THEME": "gitea-light"},
    }
    # Gitea's general settings are above the first section, and configparser cannot write these.
    top = {
        "APP_NAME": "Gitea of a test run",
        "RUN_MODE": "prod",
        "WORK_PATH": folder,
        "I_AM_BEING_UNSAFE_RUNNING_AS_ROOT": str(as_root).lower(),
    }
    return "".join(f"{key} = {value}\n" for key, value in top.items()) + "\n" + _text_of(sections)


def _text_of(sections: Mapping[str, Mapping[str, object]]) -> str:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for name, values in sections.items():
        parser[name] = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in values.items()
        }
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
