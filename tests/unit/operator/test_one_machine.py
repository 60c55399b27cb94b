"""What the settings mean on one machine."""

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.model import Settings
from coding_agent_operator.one_machine.program import on_one_machine


@pytest.mark.parametrize(("limits", "most"), [({}, 3), ({"global": 7}, 7), ({"per_repository": 1}, 3)])
def test_as_many_tasks_run_as_the_machine_is_said_to_carry(limits: dict[str, int], most: int) -> None:
    settings = Settings.model_validate({"consumer": {"concurrency": 3}, "limits": limits})
    assert on_one_machine(settings).limits.global_ == most
    assert not on_one_machine(settings).verify.evidence, "there are no pods"


def test_kueue_needs_a_cluster() -> None:
    settings = Settings.model_validate({"queue": {"engine": "kueue"}})
    with pytest.raises(SettingsError, match=r"queue\.engine: kueue schedules"):
        on_one_machine(settings)


def test_a_removed_label_is_noticed_as_soon_as_by_a_consumer_unless_set() -> None:
    assert on_one_machine(Settings()).development.check_interval == Development().cancel_check_interval
    own = Settings.model_validate({"development": {"check_interval": 7}})
    assert on_one_machine(own).development.check_interval == 7
