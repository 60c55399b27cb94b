"""Pages of a list, and the links between them."""

from __future__ import annotations

import pytest
from coding_agent_forge.pages import paginate

URL = "http://forge/api?state=all&page=2&per_page=2"


@pytest.mark.parametrize(
    ("query", "items", "links"),
    [
        ({"per_page": "2"}, [0, 1], {"next": 2, "last": 3}),
        ({"per_page": "2", "page": "2"}, [2, 3], {"prev": 1, "next": 3, "first": 1, "last": 3}),
        ({"per_page": "2", "page": "3"}, [4], {"prev": 2, "first": 1}),
        ({"per_page": "2", "page": "9"}, [], {"prev": 8, "first": 1}),
        ({}, [0, 1, 2], {"next": 2, "last": 2}),
        ({"per_page": "1000"}, [0, 1, 2, 3, 4], {}),
        ({"per_page": "0", "page": "-1"}, [0], {"next": 2, "last": 5}),
        ({"per_page": "x", "page": "²"}, [0, 1, 2], {"next": 2, "last": 2}),
    ],
)
def test_a_query_asks_for_a_page(query: dict[str, str], items: list[int], links: dict[str, int]) -> None:
    page = paginate(range(5), query, size=3)

    assert list(page.items) == items
    found = {
        part.partition('rel="')[2].rstrip('"'): part.partition(">")[0].rpartition("page=")[2]
        for part in page.links(URL).split(", ")
        if part
    }
    assert found == {rel: str(number) for rel, number in links.items()}


def test_links_keep_the_rest_of_the_query() -> None:
    first = paginate(range(5), {"per_page": "2"}, size=3).links(URL).split(">")[0]

    assert first == "<http://forge/api?state=all&per_page=2&page=2"
