"""Clients of both kinds, connected to the real services, each with a collection of its own."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from eyebright_client import Client

from tests.integration.client.facade import BlockingAsyncClient, picture, png
from tests.processes import RunningService

MakeClient = Callable[..., Client]


@pytest.fixture(scope="module", params=[Client, BlockingAsyncClient], ids=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Makes clients of one kind, and closes them."""
    with ExitStack() as stack:
        yield lambda *arguments, **keywords: cast("Client", stack.enter_context(request.param(*arguments, **keywords)))


def unused_name() -> str:
    """A name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def collection() -> str:
    """The name of a collection that does not exist yet."""
    return unused_name()


@pytest.fixture
def client(make_client: MakeClient, embedder: RunningService, index: RunningService, collection: str) -> Client:
    """A client whose default collection does not exist yet."""
    return make_client(embedder.address, index.address, collection=collection)


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Sixty different pictures as PNG files, by id."""
    return {f"p{number:02}": png(picture(number)) for number in range(60)}
