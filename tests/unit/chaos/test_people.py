"""The plan of what people do: drawn from the seed, sensible for each item, and with every kind of act."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.chaos.change_acts import CHANGE_KINDS
from tests.chaos.people import KINDS, Act, Cast, plan

CAST = Cast(
    ["acme/pricing", "acme/shop", "octo/demo"],
    {"ada": "member", "grace": "member", "eve": "stranger", "mallory": "stranger"},
)
ON_CHANGES = replace(CAST, more_kinds=CHANGE_KINDS)
SEEDS = range(5)
HALF_AN_HOUR, HUNDRED = 1800.0, 100


def steps(acts: list[Act], *kinds: str) -> list[Act]:
    """The acts of these kinds."""
    return [act for act in acts if act.kind in kinds]


def test_the_same_seed_has_the_same_plan() -> None:
    assert plan(7, HALF_AN_HOUR, HUNDRED, CAST) == plan(7, HALF_AN_HOUR, HUNDRED, CAST)
    assert plan(7, HALF_AN_HOUR, HUNDRED, CAST) != plan(8, HALF_AN_HOUR, HUNDRED, CAST)


@pytest.mark.parametrize("cast", [CAST, ON_CHANGES], ids=["", "on changes"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_occurs_among_a_hundred_applications(seed: int, cast: Cast) -> None:
    acts = plan(seed, HALF_AN_HOUR, HUNDRED, cast)
    assert {act.kind for act in acts} == set(cast.kinds)
    assert {act.repository for act in acts} == set(CAST.repositories)
    assert {act.actor for act in acts} == set(CAST.people)


@pytest.mark.parametrize(("seconds", "applications"), [(180.0, 12), (HALF_AN_HOUR, HUNDRED)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_label_is_applied_as_often_as_asked_within_the_time(
    seed: int, seconds: float, applications: int
) -> None:
    acts = plan(seed, seconds, applications, CAST)
    applied = sum(KINDS[act.kind].steps[act.step].applies for act in acts)
    # The last item may bring several, but the machine must not get twice the work that it was sized for.
    assert applications <= applied <= applications + 7
    assert all(0 <= act.at <= seconds for act in acts)
    assert all(before.at <= after.at for before, after in pairwise(acts))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_item_is_opened_first_and_once_and_reopened_only_after_a_close(seed: int) -> None:
    by_item: dict[str, list[Act]] = {}
    for act in plan(seed, HALF_AN_HOUR, HUNDRED, CAST):
        by_item.setdefault(act.item, []).append(act)
    for acts in by_item.values():
        opening = [act.kind for act in acts if KINDS[act.kind].opens and act.step == 0]
        assert opening == [acts[0].kind]
        assert len({act.repository for act in acts}) == 1
        for number, act in enumerate(acts):
            if act.kind == "reopen":
                assert any(earlier.kind in ("close", "merge") for earlier in acts[:number])


@pytest.mark.parametrize("seed", SEEDS)
def test_strangers_do_nothing_that_only_members_may_do(seed: int) -> None:
    by_strangers = {
        act.kind
        for act in plan(seed, HALF_AN_HOUR, HUNDRED, ON_CHANGES)
        if CAST.people[act.actor] == "stranger"
    }
    assert by_strangers == {kind for kind in ON_CHANGES.kinds if "stranger" in kind}


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_acts_on_the_change_of_an_item_that_has_none(seed: int) -> None:
    acts = plan(seed, HALF_AN_HOUR, HUNDRED, ON_CHANGES)
    titles = {act.item: act.text for act in acts if ON_CHANGES.kinds[act.kind].opens}
    on_changes = [act for act in acts if act.kind in CHANGE_KINDS]
    assert len(on_changes) > HUNDRED
    assert all("works" in titles[act.item] for act in on_changes)


def test_relabeling_comes_as_soon_as_its_name_says() -> None:
    acts = plan(1, HALF_AN_HOUR, HUNDRED, CAST)
    for kind, most in (("relabel within a second", 1.0), ("relabel within ten seconds", 10.0)):
        found = sorted(steps(acts, kind), key=lambda act: (act.item, act.at))
        gaps = [after.at - before.at for before, after in pairwise(found) if after.step == 1]
        assert gaps
        assert max(gaps) < most


def test_titles_tell_the_model_what_to_do() -> None:
    titles = [
        act.text
        for act in plan(1, HALF_AN_HOUR, HUNDRED, CAST)
        if KINDS[act.kind].opens and not (act.kind == "open and label" and act.step)
    ]
    hows = Counter(title.split(" ", 1)[1].rstrip("0123456789 s") for title in titles)
    assert set(hows) == {"works for", "fail", "writes nothing"}
    assert hows["works for"] > len(titles) / 2
    assert len(set(titles)) == len(titles)


def test_a_cast_without_strangers_is_refused() -> None:
    with pytest.raises(ValueError, match="the cast lacks stranger"):
        plan(1, 60, 1, Cast(["a/b"], {"ada": "member"}))
