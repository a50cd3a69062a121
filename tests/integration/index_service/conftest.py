"""Fixtures over one real index service."""

from collections.abc import Iterator
from itertools import count

import pytest
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub

from tests.integration.index_service.calls import connected, create
from tests.processes import RunningService

_NUMBERS = count()


@pytest.fixture
def stub(index: RunningService) -> Iterator[IndexServiceStub]:
    """A stub of the session's index service."""
    with connected(index.address) as opened:
        yield opened


@pytest.fixture
def name(stub: IndexServiceStub) -> str:
    """A new empty collection: 8 dimensions, COSINE, 3 shards."""
    return create(stub, f"collection-{next(_NUMBERS)}").name
