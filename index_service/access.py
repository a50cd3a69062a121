"""What each method of IndexService needs of its caller.

Owns the table that the gate of the service runtime goes by. Knows no message but by the names of its fields.
"""

from collections.abc import Mapping
from operator import attrgetter

from service_runtime.access import Access, Scope

_NAME, _COLLECTION = attrgetter("name"), attrgetter("collection")

ACCESS: Mapping[str, Access] = {
    "CreateCollection": Access(Scope.ADMIN, _NAME),
    "GetCollection": Access(Scope.READ, _NAME),
    "ListCollections": Access(Scope.READ),  # the answer has those that the caller reaches
    "UpdateCollection": Access(Scope.ADMIN, _NAME),
    "DeleteCollection": Access(Scope.ADMIN, _NAME),
    "Upsert": Access(Scope.WRITE, _COLLECTION),
    "UpsertStream": Access(Scope.WRITE, attrgetter("upsert.collection")),
    "UpdateRecords": Access(Scope.WRITE, _COLLECTION),
    "Delete": Access(Scope.WRITE, _COLLECTION, administrative=lambda request: bool(request.HasField("filter"))),
    "GetRecords": Access(Scope.READ, _COLLECTION),
    "ListRecords": Access(Scope.READ, _COLLECTION),
    "Search": Access(Scope.READ, _COLLECTION),
    "GetStats": Access(Scope.READ, _COLLECTION),
    # All collections share the places where snapshots lie: whoever may restore could read what another one holds.
    "CreateSnapshot": Access(Scope.ADMIN, _COLLECTION, every_collection=True),
    "RestoreSnapshot": Access(Scope.ADMIN, _COLLECTION, every_collection=True),
    "Optimize": Access(Scope.ADMIN, _COLLECTION),
    "GetTuning": Access(Scope.READ, _COLLECTION),
}
