"""The site builds without a warning, and a reader without the internet sees all of it, diagrams drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from coding_agent_docs import site
from coding_agent_docs.blocks import blocks
from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import DOCS
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

# npm may have to fetch the diagrams' library first (two calls of up to two minutes), and the site is built.
pytestmark = pytest.mark.timeout(900)

_SECONDS = 120
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--window-size=1200,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no internet
)
DIAGRAMS = [
    page for page in sorted(DOCS.rglob("*.md")) if any(block.language == "mermaid" for block in blocks(page))
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site, built and served."""
    folder = site.build()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    chrome.set_page_load_timeout(_SECONDS)
    yield chrome
    chrome.quit()


@pytest.mark.xdist_group("docs-site")
def test_the_diagrams_are_drawn_without_the_internet(address: str, browser: Chrome) -> None:
    for page in DIAGRAMS:
        wanted = sum(block.language == "mermaid" for block in blocks(page))
        browser.get(f"{address}/{_path(page)}")
        WebDriverWait(browser, _SECONDS).until(partial(_has_drawn, wanted), f"{page.name}: {wanted}")
        assert "Syntax error" not in browser.find_element(By.TAG_NAME, "body").text
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert [entry for entry in loaded if not entry.startswith((address, "data:"))] == []


@pytest.mark.xdist_group("docs-site")
def test_a_dead_link_stops_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[gone](gone.md)\n")
    config = site.CONFIG.read_text()
    nav = config[config.index("nav = [") : config.index("[project.theme]")]
    (tmp_path / "zensical.toml").write_text(config.replace(nav, 'nav = ["index.md"]\n\n'))
    monkeypatch.setattr(site, "CONFIG", tmp_path / "zensical.toml")
    with pytest.raises(DocsError, match="page does not exist"):
        site.build()


def _path(page: Path) -> str:
    place = page.relative_to(DOCS).with_suffix("").as_posix()
    return f"{place.removesuffix('index')}".rstrip("/") + "/"


def _has_drawn(wanted: int, browser: Chrome) -> bool:
    """All diagrams are there: the source is replaced by a box with the drawing in a closed shadow root."""
    boxes = browser.find_elements(By.CSS_SELECTOR, "div.mermaid")
    return len(boxes) == wanted and all(box.size["height"] > 20 for box in boxes)
