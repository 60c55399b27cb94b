"""Which links lead to attachments of the forge, and where our token goes for them."""

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Attachment

GITHUB, GHES, GITLAB = "https://api.github.com", "https://ghe.example/api/v3", "https://git.example/api/v4"
ID = "6f1c2d3e-0000-4000-8000-123456789abc"
SECRET = "0123456789abcdef0123456789abcdef"
UPLOAD = f"/projects/7/uploads/{SECRET}/a.png"


def found(api_url: str, link: str) -> Attachment | None:
    platform = Platform.GITLAB if api_url == GITLAB else Platform.GITHUB
    item = Item(
        platform=platform,
        host="host.example",
        repository="acme/pricing",
        kind=ItemKind.ISSUE,
        number=1,
        project_id=7 if platform is Platform.GITLAB else None,
    )
    section = {"api_url": api_url, "personal_access_token": "a-token"}
    forge = connect_forge(Settings.model_validate({platform.value: section}), platform)
    return forge._attachment_of(item, link)


@pytest.mark.parametrize(
    ("api_url", "link", "address", "with_token"),
    [
        (GITHUB, f"https://github.com/user-attachments/assets/{ID}", None, True),
        (GITHUB, f"https://github.com/acme/pricing/assets/12/{ID}", None, True),
        (GITHUB, "https://user-images.githubusercontent.com/12/34-a.png", None, False),
        (GHES, f"https://ghe.example/user-attachments/assets/{ID}", None, True),
        (GITLAB, f"/uploads/{SECRET}/a.png", UPLOAD, True),
        (GITLAB, f"https://git.example/acme/pricing/uploads/{SECRET}/a.png", UPLOAD, True),
        (GITLAB, f"https://git.example/-/project/7/uploads/{SECRET}/a.png", UPLOAD, True),
        (GITLAB, f"/uploads/{SECRET}/my%20file.png", UPLOAD.replace("a.png", "my%20file.png"), True),
        (GITLAB, f"/uploads/{SECRET}/..", UPLOAD.replace("a.png", "%2E%2E"), True),
        (GITLAB, f"/uploads/{SECRET}/..%2F..%2Fuser", UPLOAD.replace("a.png", "..%2F..%2Fuser"), True),
    ],
)
def test_an_attachment(api_url: str, link: str, address: str | None, with_token: bool) -> None:
    assert found(api_url, link) == Attachment(address or link, with_token)


@pytest.mark.parametrize(
    ("api_url", "link"),
    [
        (GITHUB, "https://evil.example/a.png"),
        (GITHUB, f"https://github.com.evil.example/user-attachments/assets/{ID}"),
        (GITHUB, f"https://github.com@evil.example/user-attachments/assets/{ID}"),
        (GITHUB, f"https://evil.example/https://github.com/user-attachments/assets/{ID}"),
        (GITHUB, f"http://github.com/user-attachments/assets/{ID}"),
        (GITHUB, f"https://github.com/user-attachments/assets/{ID}?to=https://evil.example"),
        (GITHUB, f"https://github.com/user-attachments/assets/../../logout/{ID}"),
        (GITHUB, "https://github.com/acme/pricing/raw/main/a.png"),
        (GITHUB, "https://user-images.githubusercontent.com.evil.example/12/34-a.png"),
        (GITHUB, f"/uploads/{SECRET}/a.png"),
        (GHES, f"https://github.com/user-attachments/assets/{ID}"),
        (GHES, "https://user-images.githubusercontent.com/12/34-a.png"),
        (GITLAB, f"https://evil.example/acme/pricing/uploads/{SECRET}/a.png"),
        (GITLAB, f"https://git.example/other/project/uploads/{SECRET}/a.png"),
        (GITLAB, f"https://git.example/-/project/8/uploads/{SECRET}/a.png"),
        (GITLAB, f"/uploads/{SECRET}/../../../user"),
        (GITLAB, "/uploads/short/a.png"),
        (GITLAB, f"/uploads/{SECRET}/a.png?private_token=x"),
        (GITLAB, "data:image/png;base64,AAAA"),
        (GITLAB, ""),
    ],
)
def test_any_other_link_leads_elsewhere(api_url: str, link: str) -> None:
    assert found(api_url, link) is None
