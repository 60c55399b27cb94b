"""Places of another folder that these tests use."""

from tests.integration.consumer_attempt.conftest import make_place

__all__ = ["make_place"]
