"""Every server of the product is `runtime.http_server` of core, or is listed here with its reason."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("core", "forges", "receiver", "operator", "consumer", "services", "plugin")
LISTENING = {
    *("listen", "create_server", "create_unix_server", "start_server", "start_unix_server"),
    *("start_http_server", "start_wsgi_server", "make_server", "serve_forever", "run_app"),
    *("AppRunner", "ServerRunner", "TCPSite", "SockSite", "UnixSite", "NamedPipeSite"),
    *("HTTPServer", "ThreadingHTTPServer", "TCPServer", "ThreadingTCPServer", "UnixStreamServer"),
}
"""Names of functions and classes that listen, in the standard library and in libraries of ours."""
UVICORN = {"run", "Server", "Config"}
ALLOWED = {
    ("core/src/coding_agent_core/runtime/http_server.py", "uvicorn"): "the limited server itself",
    ("core/src/coding_agent_core/runtime/http_server.py", "listen"): "the limited server itself",
    ("consumer/src/coding_agent_consumer/workspace/workspace_server.py", "listen"): (
        "a Unix socket with a protocol of its own, which limits sizes and times (test_protocol.py)"
    ),
    ("services/src/coding_agent_egress/__main__.py", "ThreadingHTTPServer"): (
        "on loopback in the proxy's pod: only Squid connects, which limits heads and bodies"
    ),
    ("services/src/coding_agent_egress/__main__.py", "serve_forever"): "as above",
}


def listeners(source: str) -> Iterator[str]:
    """The names by which a module listens: `uvicorn` for any way to start it."""
    tree = ast.parse(source)
    # What a module of ours defines is found there.
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coding_agent_")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "uvicorn":
            if UVICORN & {alias.name for alias in node.names}:
                yield "uvicorn"
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "uvicorn" and node.attr in UVICORN:
                yield "uvicorn"
            elif node.attr in LISTENING:
                yield node.attr
        elif isinstance(node, ast.Name) and node.id in LISTENING - ours:
            yield node.id


def product() -> list[Path]:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder / "src").rglob("*.py"))]
    return [*files, ROOT / "main.py"]


def test_every_server_of_the_product_is_the_limited_one() -> None:
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in product()
        for name in listeners(file.read_text(encoding="utf-8"))
    }
    assert found - ALLOWED.keys() == set(), "serve with coding_agent_core.runtime.http_server"
    assert ALLOWED.keys() - found == set(), "these do not listen any more"


@pytest.mark.parametrize(
    "source",
    [
        "import uvicorn\nuvicorn.run(app)",
        "from uvicorn import Server\nServer(config)",
        "server = await asyncio.start_server(handle, host, port)",
        "from prometheus_client import start_http_server\nstart_http_server(8000)",
        "HTTPServer(('', 80), Handler).serve_forever()",
        "await web.TCPSite(runner, host, port).start()",
        "listener.listen()",
    ],
)
def test_a_server_is_found(source: str) -> None:
    assert list(listeners(source))


@pytest.mark.parametrize(
    "source",
    [
        "from coding_agent_core.runtime.http_server import listen, serve\nserve(app, listen('', 80))",
        "import uvicorn\nuvicorn.protocols",
    ],
)
def test_what_is_limited_is_not_found(source: str) -> None:
    assert not list(listeners(source))


@pytest.mark.parametrize("module", ["coding_agent_core.runtime.http_server", "coding_agent_egress.__main__"])
def test_a_server_imports_no_settings_model_and_no_framework(module: str) -> None:
    code = f"import sys, {module}\nprint(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=120)
    absent = {"fastapi", "starlette", "kubernetes", "prometheus_client", "pydantic_ai"}
    if module.endswith("http_server"):
        absent |= {"pydantic", "coding_agent_core.settings"}
    else:
        absent |= {"uvicorn"}
    assert absent & {*shown.stdout.decode().split()} == set()
