"""The settings decide which queue there is."""

from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.platforms.registry import HOSTS, Platform
from coding_agent_core.queues.rabbitmq import RabbitMQSink, RabbitMQSource
from coding_agent_core.queues.rabbitmq.messages import PUBLISH_S
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.model import Backend, Queue, Settings
from coding_agent_core.task.agenttask import Spec

from main import connect_sink, connect_source, main


def test_the_configured_host_decides_on_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("github: {api_url: 'https://code.example.com/api/v3'}\n")
    monkeypatch.setitem(HOSTS, "code.example.com", Platform.GITLAB)
    monkeypatch.setattr("main.configure", lambda _: None)
    monkeypatch.setattr("main._run", AsyncMock())
    assert main(["--config", str(config), "--mode", "webhook"]) == 0
    spec = Spec.model_validate({"url": "https://code.example.com/octo/demo/issues/7"})
    assert spec.item.platform is Platform.GITHUB
    with pytest.raises(ValueError, match="not the address"):
        Spec.model_validate({"url": "https://code.example.com/octo/demo/-/issues/7"})


def test_on_one_machine_one_process_does_everything() -> None:
    for connect in (connect_sink, connect_source):
        with pytest.raises(SettingsError, match="one process does everything"):
            connect(Settings.model_construct())


def test_rabbitmq_is_not_connected_before_it_is_used() -> None:
    settings = Settings.model_construct(use_rabbitmq=True)
    assert isinstance(connect_sink(settings), RabbitMQSink)
    assert isinstance(connect_source(settings), RabbitMQSource)


def test_kubernetes_takes_tasks_and_hands_none_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    settings = Settings.model_construct(queue=Queue(backend=Backend.KUBERNETES))
    assert isinstance(connect_sink(settings), KubernetesSink)
    with pytest.raises(SettingsError, match="the operator starts a Job"):
        connect_source(settings)


@pytest.mark.parametrize(
    ("given", "kubernetes", "rabbitmq"),
    [({}, 4.0, PUBLISH_S), ({"webhook_timeout": 30, "publish_timeout": 60}, 30.0, 60.0)],
    ids=["in real use", "in tests"],
)
def test_the_queues_have_the_time_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: dict[str, float],
    kubernetes: float,
    rabbitmq: float,
) -> None:
    (tmp_path / "config").touch()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    development = Development.model_validate(given)
    queue = Queue(backend=Backend.KUBERNETES)
    sink = connect_sink(Settings.model_construct(queue=queue, development=development))
    assert isinstance(sink, KubernetesSink)
    assert sink._total_timeout == kubernetes
    sink = connect_sink(Settings.model_construct(use_rabbitmq=True, development=development))
    assert isinstance(sink, RabbitMQSink)
    assert sink._publish_timeout == rabbitmq
