"""The broker's file of docker-compose.yml: a long task is not handed out a second time."""

import shutil
from pathlib import Path

from tests.fixtures.rabbitmq import Broker
from tests.sweep.compose.project import ROOT


def test_the_broker_waits_a_day_for_a_task(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    shutil.copy(ROOT / "dev/compose/rabbitmq/20-coding-agent.conf", tmp_path / "broker" / "rabbitmq.conf")
    try:
        broker.start()
        assert broker.setting("consumer_timeout") == str(24 * 3600 * 1000)
    finally:
        broker.close()
