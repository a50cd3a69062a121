from index_service.catalog import is_collection_name
from index_service.collection_labels import MOST_NAMED, OTHERS, CollectionLabels


def test_the_first_bear_their_names_and_the_others_one_together() -> None:
    labels = CollectionLabels()
    for number in range(MOST_NAMED + 2):
        labels.add(f"pets-{number}")
    told = {labels.label(f"pets-{number}") for number in range(MOST_NAMED + 2)}
    assert told == {*(f"pets-{number}" for number in range(MOST_NAMED)), OTHERS}


def test_who_goes_makes_room() -> None:
    labels = CollectionLabels()
    for number in range(MOST_NAMED + 1):
        labels.add(f"pets-{number}")
    assert not labels.remove(f"pets-{MOST_NAMED}")
    assert labels.remove("pets-0")
    labels.add("birds")
    assert labels.label("birds") == "birds"
    assert labels.label("pets-0") == OTHERS


def test_no_collection_can_have_the_others_name() -> None:
    assert not is_collection_name(OTHERS)
