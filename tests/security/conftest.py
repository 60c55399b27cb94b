"""Fixtures of other tiers that trials use."""

from tests.integration.consumer_attempt.conftest import make_place
from tests.integration.receiver.conftest import module_receiver, module_sink, receiver, sink

__all__ = ["make_place", "module_receiver", "module_sink", "receiver", "sink"]
