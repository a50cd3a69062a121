"""What each method of EmbedderService needs of its caller.

Owns the table that the gate of the service runtime goes by.
"""

from collections.abc import Mapping

from service_runtime.access import Access, Scope

ACCESS: Mapping[str, Access] = {
    name: Access(Scope.READ)  # vectors tell nothing of any collection
    for name in ("GetModel", "EmbedTexts", "EmbedImages", "EmbedStream")
}
