"""Squid's configuration, which is made from the settings without I/O.

Squid checks a request in this order: a valid password, a host in the user's list, a public address. The name
is resolved last, so that a name that a command invents never reaches a name server.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.connections import (
    S3,
    ContextStorage,
    Egress,
    McpServer,
    ParentProxy,
    UserConfigApi,
)
from coding_agent_core.settings.forges import FORGE_SECRETS, FORGE_VARIABLES, ForgeSettings, forge_sections
from coding_agent_core.settings.llm import LLM, GatewaySettings
from coding_agent_core.settings.reading import COMMON_SECRETS, COMMON_VARIABLES, Logging, Variables
from coding_agent_core.settings.section import Section
from coding_agent_core.task.egress import AGENT_USERS, DENIALS_HOST, PRESETS, WORKSPACE_USERS, profile_of
from pydantic import create_model

NEVER = (
    *("169.254.0.0/16", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fe80::/10"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    *("64:ff9b::a9fe:0/112", "64:ff9b:1::/48", "2002:a9fe::/32", "::a9fe:0/112"),
)
"""Link-local addresses and the metadata services of clouds, which give out credentials of the node;
192.0.0.192 is Oracle's. The last four are IPv6 forms of the first (RFC 6052, 8215, 3056 and 4291)."""
PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
    *("169.254.0.0/16", "168.63.129.16"),
    *("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32"),
    *("2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
)
"""Addresses that are not public (https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry), and deprecated forms that a host may still
route: IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765) and site-local addresses (RFC 3879)."""
IDENTIFY = "coding_agent_egress.identify"
PAGES = {
    "ERR_EGRESS_HOST": "The egress proxy denies %H: it is not in the list of allowed hosts."
    " An administrator can allow it in egress.allow.\n",
    "ERR_EGRESS_PRIVATE": "The egress proxy denies %H: it has a private address."
    " An administrator can allow that in egress.private.\n",
}
"""The answers to denied requests, sent with 403, by the name of Squid's error page; %H is the host."""


VARIABLES = Variables({**FORGE_VARIABLES, **COMMON_VARIABLES}, FORGE_SECRETS | COMMON_SECRETS)

if TYPE_CHECKING:
    ForgeSections = Section
else:
    ForgeSections = create_model("ForgeSections", __base__=Section, **forge_sections("SECTION"))


class EgressSettings(ForgeSections, extra="ignore"):
    """The settings that this program reads; the others are checked by the programs that read them."""

    egress: Egress = Egress()
    llm: LLM = LLM()
    gateway: GatewaySettings = GatewaySettings()
    mcp_servers: tuple[McpServer, ...] = ()
    user_config_api: UserConfigApi = UserConfigApi()
    context_storage: ContextStorage = ContextStorage()
    logging: Logging = Logging()

    def forge(self, platform: Platform) -> ForgeSettings:
        """Return the section of a platform."""
        section: ForgeSettings = getattr(self, platform)
        return section


@dataclass(frozen=True)
class ProxyTarget:
    """A host, or the hosts of a domain, that may be reached.

    Attributes:
        host: a name, an address, or `*.` and a domain.
        port: `None`: 443 for tunnels and 80 for plain HTTP.
    """

    host: str
    port: int | None = None

    @staticmethod
    def of(pattern: str) -> ProxyTarget:
        """Return the target that an entry of the settings names."""
        host, _, port = pattern.partition(":")
        return ProxyTarget(host, int(port) if port else None)

    @property
    def regex(self) -> str:
        below = r"^[^.]+(\.[^.]+)*" if self.host.startswith("*.") else "^"
        return f"{below}{re.escape(self.host.removeprefix('*'))}$"


@dataclass(frozen=True)
class ProxyFiles:
    """The ports and files of the proxy.

    Attributes:
        port: the port for attempts, on all addresses unless `host` names one.
        denials: the port on loopback of the server that reports denials.
        folder: the folder of the configuration, the keys and the pages.
        hosts: a file of names and addresses, which counts before name servers.
    """

    port: int
    denials: int
    folder: Path
    host: str = ""
    hosts: Path = Path("/etc/hosts")

    @property
    def configuration(self) -> Path:
        return self.folder / "squid.conf"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def pages(self) -> Path:
        return self.folder / "pages"


def configuration(settings: EgressSettings, place: ProxyFiles, *, parent_login: str | None = None) -> str:
    """Return the text of squid.conf, which is always the same for the same arguments.

    Args:
        parent_login: `USER:PASSWORD` for the parent proxy.
    """
    egress = settings.egress
    workspace = tuple(ProxyTarget.of(pattern) for pattern in egress.allow)
    agent = (*agent_targets(settings), *(ProxyTarget.of(pattern) for pattern in egress.agent))
    lines = [
        *_program(place),
        *_parent(egress.parent, parent_login),
        f"acl agent proxy_auth_regex {AGENT_USERS}",
        f"acl workspace proxy_auth_regex {WORKSPACE_USERS}",
        *(
            f"acl exempt_name dstdom_regex -n -i {ProxyTarget.of(pattern).regex}"
            for pattern in egress.private
        ),
        *(["acl exempt all-of exempt_name !never"] if egress.private else []),
        "acl public_address all-of !private",
        f"acl public any-of {'exempt ' if egress.private else ''}public_address",
        # Squid takes the first rule that matches, so the order of these lines is the rule.
        "http_access deny !identified",
        "http_access allow agent denials",
        "http_access deny denials not_listed",
        *_allow("agent", "agent", agent, "!never"),
        # Addresses are denied in every spelling, because only names are listed.
        "http_access deny literal not_listed",
        *_allow("all", "workspace", workspace, "public"),
    ]
    for name, patterns in sorted(egress.repositories.items()):
        profile = profile_of(name)
        lines.append(f"acl user_{profile} proxy_auth_regex {re.escape('.workspace.')}{profile}{PRESETS}$")
        targets = tuple(ProxyTarget.of(pattern) for pattern in patterns)
        lines += _allow(profile, f"user_{profile}", targets, "public")
    for name, patterns in sorted(egress.presets.items()):
        users = WORKSPACE_USERS.removesuffix("$") + f"_{name}{PRESETS}$"
        lines.append(f"acl preset_{name} proxy_auth_regex {users}")
        targets = tuple(ProxyTarget.of(pattern) for pattern in patterns)
        lines += _allow(f"preset_{name}", f"preset_{name}", targets, "public")
    return "\n".join([*lines, "http_access deny not_listed", ""])


def _program(place: ProxyFiles) -> list[str]:
    pages = [
        f"deny_info 403:{page} {acl}" for page, acl in zip(PAGES, ("not_listed", "not_public"), strict=True)
    ]
    return [
        f"http_port {f'{place.host}:' if place.host else ''}{place.port}",
        "pid_filename none",
        f"coredump_dir {place.folder}",
        "cache_log stdio:/dev/stdout",
        'logformat egress {"time":%ts.%03tu,"user":"%#un","client":"%>a","method":"%rm","host":"%#>rd",'
        '"port":"%>rP","status":%>Hs,"result":"%Ss","sent":%>st,"received":%<st,"ms":%tr,"address":"%<a"}',
        "access_log stdio:/dev/stdout logformat=egress",
        "logfile_rotate 0",
        f"error_directory {place.pages}",
        f"hosts_file {place.hosts}",
        "visible_hostname egress",
        # Hosts outside need not know of the proxy, and no answer is kept for another attempt.
        *("via off", "forwarded_for delete", "cache deny all", "cache_mem 0 MB", "memory_pools off"),
        *("pinger_enable off", "icp_port 0", "snmp_port 0", "client_db off", "workers 1"),
        # A model may think for minutes before it answers.
        *("connect_timeout 20 seconds", "read_timeout 15 minutes", "shutdown_lifetime 20 seconds"),
        # Search domains are used, as by a pod's other programs, so that a Service's short name is found.
        "dns_defnames on",
        # `env` starts it, because with the argv[0] that Squid sets, Python does not find its packages.
        f"auth_param basic program /usr/bin/env {sys.executable} -I -m {IDENTIFY} {place.keys}",
        *("auth_param basic children 4 startup=1 idle=1", "auth_param basic realm attempts"),
        *("auth_param basic credentialsttl 5 minutes", "auth_param basic casesensitive on"),
        *("acl identified proxy_auth REQUIRED", "acl tunnel method CONNECT"),
        r"acl literal dstdom_regex -n -i ^[0-9.]+$ ^0x[0-9a-f.]+$ ^\[?[0-9a-f]*:[0-9a-f:.]*\]?$",
        f"acl private dst {' '.join(PRIVATE)}",
        f"acl never dst {' '.join(NEVER)}",
        *("acl https_port port 443", "acl http_port port 80"),
        *("acl https all-of tunnel https_port", "acl http all-of !tunnel http_port"),
        "acl usual_port any-of https http",
        # Both always match: the last name in a rule chooses the page that answers a denied request.
        *("acl not_listed src all", "acl not_public src all"),
        *pages,
        f"acl denials dstdom_regex -n -i ^{re.escape(DENIALS_HOST)}$",
        # The server of denials gets the name of the user, whose password was checked.
        f"cache_peer 127.0.0.1 parent {place.denials} 0 no-query no-digest no-netdb-exchange originserver "
        "login=*:checked name=denials",
        *("cache_peer_access denials allow denials", "cache_peer_access denials deny all"),
        *("never_direct allow denials", "always_direct deny denials"),
    ]


def _parent(parent: ParentProxy | None, login: str | None) -> list[str]:
    """Return the lines for a parent proxy, through which Squid reaches all hosts without a private address.

    A host that only the parent can resolve has no address here, so it is reached through the parent. A login
    has URL escapes (http://www.squid-cache.org/Doc/config/cache_peer).
    """
    if parent is None:
        return ["always_direct allow all"]
    peer = f"cache_peer {parent.host} parent {parent.port} 0 no-query no-digest no-netdb-exchange default"
    if login:
        peer += f" login={quote(login, safe=':')}"
    return [
        f"{peer} name=parent",
        "cache_peer_access parent deny denials",
        *("always_direct allow private", "always_direct deny all"),
        "never_direct allow all",
    ]


def _allow(name: str, user: str, targets: Iterable[ProxyTarget], address: str) -> Iterator[str]:
    """Yield the lines that allow a user these targets, if they resolve to acceptable addresses."""
    by_port: dict[int | None, set[str]] = {}
    for target in targets:
        by_port.setdefault(target.port, set()).add(target.regex)
    for port, patterns in sorted(by_port.items(), key=lambda entry: entry[0] or 0):
        hosts, ports = f"hosts_{name}_{port or 'usual'}", f"port_{name}_{port}" if port else "usual_port"
        yield from (f"acl {hosts} dstdom_regex -n -i {pattern}" for pattern in sorted(patterns))
        if port:
            yield f"acl {ports} port {port}"
        yield f"http_access allow {user} {hosts} {ports} {address}"
        # The name is listed and its address is not acceptable: the page that Squid answers says so.
        yield f"http_access deny {user} {hosts} {ports} not_public"


def agent_targets(settings: EgressSettings) -> tuple[ProxyTarget, ...]:
    """Return the targets to which the settings send the agent, e.g. forges, models, bucket, MCP servers."""
    urls = [server.url for server in settings.mcp_servers if server.url]
    for platform in Platform:
        forge = settings.forge(platform)
        if forge.connectable:
            urls += [forge.api_url, f"{urlsplit(forge.api_url).scheme}://{forge.host}"]
            urls += forge.token_service_urls
    urls.append(settings.llm.address)
    urls += [one.base_url for one in settings.llm.vendors.values() if one.api_key.configured]
    urls += [fallback.base_url for fallback in settings.gateway.fallbacks]
    if settings.gateway.identity is not None:
        urls += filter(None, (settings.gateway.identity.exchange, settings.gateway.identity.impersonation))
    if settings.user_config_api.enabled:
        urls.append(settings.user_config_api.url)
    if settings.context_storage.s3 is not None:
        urls += filter(None, (_bucket(settings.context_storage.s3), settings.context_storage.s3.exchange))
    targets = []
    for url in urls:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # This allows a tunnel to an http port too: some clients tunnel everything.
        port = parts.port or (443 if parts.scheme == "https" else 80)
        targets.append(ProxyTarget(f"[{host}]" if ":" in host else host, port))
    return tuple(dict.fromkeys(targets))


def _bucket(s3: S3) -> str:
    """Return the address of the bucket, as the store's client builds it."""
    url = s3.endpoint_url or f"https://s3.{s3.region}.amazonaws.com"
    if s3.path_style:
        return url
    scheme, _, host = url.partition("://")
    return f"{scheme}://{s3.bucket}.{host}" if s3.endpoint_url is None else url
