"""A person with a real browser (Debian's chromium): clicks a label, opens an issue, reads a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_forge import ForgeServer
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.fixtures.forge import REPOSITORY, client, push_fix
from tests.fixtures.hook_receiver import HookReceiver

WAIT_SECONDS = 90
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but loopback
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    chrome.set_page_load_timeout(WAIT_SECONDS)
    yield chrome
    chrome.quit()


def label_button(browser: Chrome, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f'button.label[value="{name}"]')


def click(browser: Chrome, element: WebElement) -> None:
    """Click, and wait until the page that follows is there."""
    browser.execute_script("window.isTheOldPage = true")
    element.click()
    followed = "return !window.isTheOldPage && document.readyState === 'complete'"
    # Between two pages there is none to ask, which chromedriver says in several ways.
    wait = WebDriverWait(browser, WAIT_SECONDS, ignored_exceptions=(WebDriverException,))
    wait.until(lambda driver: driver.execute_script(followed))


def test_a_person_labels_an_issue_and_reads_its_pull_request(
    browser: Chrome, github_forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    push_fix(github_forge, tmp_path)
    with client(github_forge) as api:
        body = {"title": "Start at the step", "head": "fix", "base": "main", "body": "Closes #1"}
        api.post(f"/repos/{REPOSITORY}/pulls", json=body).raise_for_status()
    github_forge.add_hook(REPOSITORY, hook_receiver.url)
    browser.get(f"{github_forge.base_url}/{REPOSITORY}/issues/1")
    assert "Buying exactly 10 pieces" in browser.find_element(By.TAG_NAME, "h1").text

    click(browser, label_button(browser, "coding agent"))
    assert label_button(browser, "coding agent").get_attribute("aria-pressed") == "true"
    click(browser, label_button(browser, "coding agent"))

    told = [received.payload for received in hook_receiver.wait_for_count(2)]
    assert [(payload["action"], payload["sender"]["login"]) for payload in told] == [
        ("labeled", "alice"),
        ("unlabeled", "alice"),
    ]

    click(browser, browser.find_element(By.LINK_TEXT, "Start at the step"))
    for kind, line in (
        ("added", "+        if quantity >= pieces:"),
        ("removed", "-        if quantity > pieces:"),
    ):
        assert browser.find_element(By.CSS_SELECTOR, f".diff .{kind}").text.strip() == line


def test_opening_an_issue_and_commenting(browser: Chrome, gitlab_forge: ForgeServer) -> None:
    browser.get(f"{gitlab_forge.base_url}/{REPOSITORY}")
    click(browser, browser.find_element(By.LINK_TEXT, "New issue"))
    browser.find_element(By.NAME, "title").send_keys("Tea is too cheap")
    browser.find_element(By.NAME, "body").send_keys("<b>Really</b>")
    click(browser, browser.find_element(By.CSS_SELECTOR, "main button"))

    assert browser.current_url == f"{gitlab_forge.base_url}/{REPOSITORY}/-/issues/2"
    assert "<b>Really</b>" in browser.find_element(By.CSS_SELECTOR, ".text").text  # escaped, not bold
    browser.find_element(By.ID, "comment").send_keys("Much too cheap")
    click(browser, browser.find_element(By.XPATH, "//button[text()='Comment']"))

    assert [comment.body for comment in gitlab_forge.item(REPOSITORY, 2).comments] == ["Much too cheap"]
    assert "Much too cheap" in browser.find_element(By.CSS_SELECTOR, ".comment").text


def test_a_form_from_another_site_is_refused(github_forge: ForgeServer) -> None:
    with client(github_forge, None) as api:
        answer = api.post(
            f"{github_forge.base_url}/{REPOSITORY}/issues/1/labels",
            data={"label": "coding agent", "action": "add"},
            headers={"origin": "http://elsewhere.example"},
        )

    assert answer.status_code == 403
    assert github_forge.labels(REPOSITORY, 1) == {"bug"}
