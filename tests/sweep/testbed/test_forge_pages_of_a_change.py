"""The small CI of a sandbox forge, and what a person sees and does on the page of a change."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from coding_agent_testbed.forge import Flavour, ForgeServer

from tests.fixtures.forge import REPOSITORY, push_fix, sample_seed

FAILS_ONCE = "test -e $SEEN && echo better || { touch $SEEN; echo worse; exit 1; }"
PLACE = {"path": "pricing/discount.py", "line": 10}


@pytest.fixture(params=list(Flavour))
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForgeServer]:
    seed = sample_seed()
    flaky = FAILS_ONCE.replace("$SEEN", str(tmp_path / "seen"))
    seed.repositories[0].ci = {"tests": "python3 -m unittest", "flaky": flaky}
    with ForgeServer(request.param, seed, tmp_path / "forge") as server:
        yield server


def results(forge: ForgeServer, sha: str) -> dict[str, str]:
    checks = forge.sandbox.reviews.checks(forge.repository(REPOSITORY), sha, latest=True)
    return {check.name: check.result for check in checks}


def test_the_page_of_a_change_shows_what_ci_and_people_say_and_takes_what_a_person_does(
    forge: ForgeServer, tmp_path: Path
) -> None:
    sha = push_fix(forge, tmp_path)
    number = forge.open_change(REPOSITORY, "fix", "main", by="coding-agent-bot")
    forge.wait_for(lambda: results(forge, sha) == {"tests": "success", "flaky": "failure"})

    change = forge.item(REPOSITORY, number, "change")
    path = forge.sandbox.path_of(forge.repository(REPOSITORY), change)
    with httpx2.Client(base_url=forge.base_url, follow_redirects=True, trust_env=False) as browser:
        page = browser.get(path).text
        assert '<li class="passed"><b><a href' in page
        assert '<li class="failed"><b><a href' in page
        log = page.split('<li class="failed"><b><a href="')[1].split('"')[0]
        assert "worse" in browser.get(log).text

        flaky = forge.sandbox.reviews.checks(forge.repository(REPOSITORY), sha)[1]
        forge.rerun(REPOSITORY, flaky)
        forge.wait_for(lambda: results(forge, sha)["flaky"] == "success")
        assert "success, run 2" in browser.get(path).text

        refused = browser.post(f"{path}/threads", data={**PLACE, "line": 99, "body": "Nowhere"})
        assert refused.status_code == 422
        page = browser.post(f"{path}/threads", data={**PLACE, "body": "Why <at> the step?"}).text
        thread = forge.sandbox.reviews.threads(change)[0]
        assert "Why &lt;at&gt; the step?" in page
        assert "quantity &gt;= pieces" in page.split(f'id="thread-{thread.id}"')[1].split("</pre>")[0]
        page = browser.post(f"{path}/threads/{thread.id}/replies", data={"body": "Because."}).text
        assert "Because." in page
        page = browser.post(f"{path}/threads/{thread.id}/state", data={"state": "resolved"}).text
        assert "resolved by alice" in page
        forge.request_review(REPOSITORY, number, "alice", by="coding-agent-bot")
        assert "was asked for a review" in browser.get(path).text
        page = browser.post(f"{path}/reviews", data={"state": "APPROVED"}).text
        what = "these changes" if forge.flavour is Flavour.GITHUB else "this merge request"
        assert f"approved {what}" in page.replace("</b>", "")
        page = browser.post(f"{path}/merge").text
        assert '<span class="badge merged">' in page
        assert browser.post(f"{path}/merge").status_code == 405
