"""Fixtures of the receiver's tests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fixtures.deliveries import RecordingSink, settings
from tests.fixtures.receiver import Receiver, receiving


@pytest.fixture(scope="module")
def module_sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def sink(module_sink: RecordingSink) -> RecordingSink:
    """The sink of `receiver`, as new."""
    module_sink.__init__()  # type: ignore[misc] # the receiver keeps the object
    return module_sink


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_receiver(module_sink: RecordingSink) -> AsyncIterator[Receiver]:
    many = settings(rate_limit={"failed": "100000/minute"})
    async with receiving(many, module_sink) as running:
        yield running


@pytest.fixture
def receiver(module_receiver: Receiver, sink: RecordingSink) -> Receiver:
    """A receiver over `sink`, shared by a module whose tests run in the module's event loop."""
    return module_receiver
