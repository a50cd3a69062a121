"""Client and AsyncClient have the same methods, with the same signatures and documentation."""

import inspect

import pytest
from eyebright_client import AsyncClient, Client

DIFFERENT = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(client: type) -> dict[str, object]:
    return {
        name: member
        for name, member in vars(client).items()
        if inspect.isfunction(member)
        and (not name.startswith("_") or name in (*DIFFERENT, *DIFFERENT.values(), "__init__"))
    }


def test_same_names() -> None:
    assert [DIFFERENT.get(name, name) for name in methods(Client)] == list(methods(AsyncClient))
    assert inspect.getdoc(Client) == inspect.getdoc(AsyncClient)


@pytest.mark.parametrize("name", methods(Client))
def test_same_signature_and_documentation(name: str) -> None:
    sync, other = getattr(Client, name), getattr(AsyncClient, DIFFERENT.get(name, name))
    ours, theirs = inspect.signature(sync), inspect.signature(other)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    if name == "list":
        assert str(theirs.return_annotation) == str(ours.return_annotation).replace("Iterator", "AsyncIterator")
        assert inspect.isasyncgenfunction(other)
    else:
        assert ours.return_annotation == theirs.return_annotation
        assert inspect.iscoroutinefunction(other) == (name != "__init__")
    assert inspect.getdoc(sync) == inspect.getdoc(other)
    if not name.startswith("_"):
        assert inspect.getdoc(sync)
