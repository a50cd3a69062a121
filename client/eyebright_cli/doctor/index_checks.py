"""What is looked at on an index, beside an embedder.

Owns the checks and what a failure of each likely means.
"""

from eyebright_client import Collection

from eyebright_cli.doctor.examination import Check, CheckFailed, NotChecked, Subject, health_check

_NAMED = 3


def _fingerprints(subject: Subject) -> str:
    collections = _judged(subject)
    model = subject.model
    others = [
        f"{each.name} has {each.dimension} dimensions of {each.fingerprint}"
        for each in collections
        if (each.fingerprint, each.dimension) != (model.fingerprint, model.dimension)
    ]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        named = ", ".join(others[:_NAMED])
        raise CheckFailed(f"the embedder gives {model.dimension} dimensions of {model.fingerprint}; {named}{more}")
    return f"{len(collections)} of the embedder's fingerprint"


def _judged(subject: Subject) -> tuple[Collection, ...]:
    if subject.collection is not None:
        return (subject.client.get_collection(subject.collection),)
    if collections := subject.client.list_collections():
        return collections
    raise NotChecked("the index has no collection")


INDEX_CHECKS: tuple[Check, ...] = (
    health_check("index: health", "index"),
    Check(
        "index: collections",
        _fingerprints,
        "A collection was filled by another embedder, which alone can search it: captions and pictures of this one are "
        "refused there. --collection NAME judges one collection alone",
    ),
)
"""In the order in which they are made."""
