"""Every method of every service says what its callers need, and where its requests name their collection."""

from collections.abc import Mapping

import pytest
from eyebright.embedder.v1 import embedder_service_pb2
from eyebright.index.v1 import index_service_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from embedder_service.access import ACCESS as EMBEDDER_ACCESS
from index_service.access import ACCESS as INDEX_ACCESS
from service_runtime.access import Access, Scope

INDEX = index_service_pb2.DESCRIPTOR.services_by_name["IndexService"]
EMBEDDER = embedder_service_pb2.DESCRIPTOR.services_by_name["EmbedderService"]
CONCERN_NO_COLLECTION = {"ListCollections"}


@pytest.mark.parametrize(
    ("service", "access"), [(INDEX, INDEX_ACCESS), (EMBEDDER, EMBEDDER_ACCESS)], ids=["index", "embedder"]
)
def test_no_method_is_without_a_scope(service: ServiceDescriptor, access: Mapping[str, Access]) -> None:
    assert set(access) == {method.name for method in service.methods}


@pytest.mark.parametrize("name", INDEX_ACCESS)
def test_the_collection_of_a_request_is_found(name: str) -> None:
    method = INDEX.methods_by_name[name]
    request = GetMessageClass(method.input_type)()
    holder = request.upsert if name == "UpsertStream" else request  # type: ignore[attr-defined]
    field = "collection" if hasattr(holder, "collection") else "name"
    find = INDEX_ACCESS[name].collection
    if find is None:
        assert name in CONCERN_NO_COLLECTION
        assert not hasattr(holder, field)
        return
    assert find(request) == ""
    setattr(holder, field, "photos")
    assert find(request) == "photos"


def test_only_administrators_make_remove_or_copy_collections() -> None:
    admin = {name for name, access in INDEX_ACCESS.items() if access.scope is Scope.ADMIN}
    assert admin == {
        "CreateCollection",
        "UpdateCollection",
        "DeleteCollection",
        "Optimize",
        "CreateSnapshot",
        "RestoreSnapshot",
    }
    readers = {name for name, access in INDEX_ACCESS.items() if access.scope is Scope.READ}
    assert all(name.startswith(("Get", "List", "Search")) for name in readers)
