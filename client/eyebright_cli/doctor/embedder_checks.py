"""What is looked at on an embedder.

Owns the checks and what a failure of each likely means. They use nothing but the service's RPCs, so that any server of
the contract can be checked.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from eyebright_client import InvalidArgument

from eyebright_cli.doctor.examination import (
    Check,
    CheckFailed,
    Item,
    NotChecked,
    Subject,
    TowerName,
    check_same,
    cosines,
    health_check,
)
from eyebright_cli.doctor.golden import Golden
from eyebright_cli.doctor.specimens import (
    CAPTIONS,
    NO_PICTURE,
    PICTURES,
    SHORT,
    VARIANTS,
    long_caption,
    picture,
)

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_LENGTH_TOLERANCE = 1e-3
_ROUNDS = 3


def _model(subject: Subject) -> str:
    model = subject.model
    if not _FINGERPRINT.fullmatch(model.fingerprint):
        raise CheckFailed(f"expected a fingerprint of 64 hexadecimal digits, not {model.fingerprint!r}")
    for name in ("dimension", "image_size", "text_length", "max_items"):
        if getattr(model, name) < 1:
            raise CheckFailed(f"expected {name} of at least 1, not {getattr(model, name)}")
    for tower in model.towers:
        answer = subject.answer(tower, _items(tower)[:1])
        if answer.fingerprint != model.fingerprint:
            raise CheckFailed(
                f"GetModel states fingerprint {model.fingerprint}, vectors come with {answer.fingerprint}"
            )
        if answer.vectors.shape[1] != model.dimension:
            raise CheckFailed(f"GetModel states {model.dimension} dimensions, vectors have {answer.vectors.shape[1]}")
    return f"{model.dimension} dimensions, fingerprint {model.fingerprint}"


def _unit_length(subject: Subject) -> str:
    vectors = np.concatenate([subject.vectors(tower, _items(tower)) for tower in subject.model.towers])
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    said = f"lengths {lengths.min():.6f} to {lengths.max():.6f}, 1 expected"
    if not np.abs(lengths - 1).max() <= _LENGTH_TOLERANCE:
        raise CheckFailed(said)
    return said


def _golden(tower: TowerName) -> Callable[[Subject], str]:
    def look(subject: Subject) -> str:
        golden = subject.golden
        if golden is None:
            raise NotChecked("none known of this fingerprint; --record FILE makes some, on an embedder that you trust")
        items, names, stored = _golden_items(golden, tower)
        if not items:
            raise NotChecked("the golden file holds none of this tower")
        if golden.fingerprint != subject.model.fingerprint:
            raise CheckFailed(f"they are of fingerprint {golden.fingerprint}, another vector space")
        step = subject.model.max_items
        vectors = [subject.vectors(tower, items[begin : begin + step]) for begin in range(0, len(items), step)]
        return check_same(np.concatenate(vectors), stored, subject.near_golden, names)

    return look


def _golden_items(golden: Golden, tower: TowerName) -> tuple[Sequence[Item], Sequence[str], np.ndarray]:
    """(items, what they are called, their vectors)."""
    if tower == "text":
        return golden.captions, [repr(caption) for caption in golden.captions], golden.caption_vectors
    return [data for _, data in golden.pictures], [name for name, _ in golden.pictures], golden.picture_vectors


def _distinct(tower: TowerName) -> Callable[[Subject], str]:
    def look(subject: Subject) -> str:
        vectors = subject.vectors(tower, _items(tower))
        ours, theirs = np.triu_indices(len(vectors), 1)
        greatest = float(cosines(vectors[ours], vectors[theirs]).max())
        said = f"greatest cosine of two different ones {greatest:.6f}, under {subject.same:g} expected"
        if not greatest < subject.same:
            raise CheckFailed(said)
        return said

    return look


def _repeated(tower: TowerName) -> Callable[[Subject], str]:
    def look(subject: Subject) -> str:
        first = subject.vectors(tower, _items(tower))
        again = np.concatenate([subject.vectors(tower, _items(tower)) for _ in range(_ROUNDS)])
        return check_same(again, np.tile(first, (_ROUNDS, 1)), subject.same)

    return look


def _among_others(tower: TowerName) -> Callable[[Subject], str]:
    """Each alone, all together, and all together in another order."""

    def look(subject: Subject) -> str:
        items = _items(tower)
        alone = np.concatenate([subject.vectors(tower, [item]) for item in items])
        together = subject.vectors(tower, items)
        order = np.random.default_rng(1).permutation(len(items))
        shuffled = np.empty_like(together)
        shuffled[order] = subject.vectors(tower, [items[place] for place in order])
        return check_same(np.concatenate([together, shuffled]), np.tile(alone, (2, 1)), subject.same)

    return look


def _padding(subject: Subject) -> str:
    alone = subject.vectors("text", [SHORT])
    beside = subject.vectors("text", [SHORT, long_caption(subject.model.text_length, "the end")])
    return check_same(beside[:1], alone, subject.same)


def _spelling(subject: Subject) -> str:
    vectors = subject.vectors("text", VARIANTS)
    return check_same(vectors[1:], vectors[[0, 0]], subject.same, [repr(variant) for variant in VARIANTS[1:]])


def _truncation(subject: Subject) -> str:
    length = subject.model.text_length
    captions = [SHORT, long_caption(length, "a lighthouse"), long_caption(length, "a bowl of soup")]
    answer = subject.answer("text", captions)
    if answer.errors:
        raise CheckFailed(f"a caption of more than {length} tokens was refused: {next(iter(answer.errors.values()))}")
    if answer.truncated != {1, 2}:
        raise CheckFailed(f"expected captions 1 and 2 of 3 flagged as truncated, not {sorted(answer.truncated)}")
    said = check_same(answer.vectors[1:2], answer.vectors[2:], subject.same)
    return f"flagged; of two that differ past the {length} tokens: {said}"


def _fails_alone(tower: TowerName) -> Callable[[Subject], str]:
    def look(subject: Subject) -> str:
        good = _items(tower)[:2]
        bad: Item = " \n" if tower == "text" else NO_PICTURE
        alone = subject.vectors(tower, good)
        answer = subject.answer(tower, [good[0], bad, good[1]])
        if set(answer.errors) != {1}:
            raise CheckFailed(f"expected item 1 of 3 refused, not {sorted(answer.errors)}")
        if not isinstance(answer.errors[1], InvalidArgument):
            raise CheckFailed(f"expected item 1 refused with INVALID_ARGUMENT, not {answer.errors[1].code.name}")
        return f"it was refused; the others: {check_same(answer.vectors[[0, 2]], alone, subject.same)}"

    return look


def _orientation(subject: Subject) -> str:
    """The two were compressed apart, so that they are alike but not the same."""
    return _nearer(subject, "turned.jpg", "upright.jpg", "lying.jpg")


def _transparency(subject: Subject) -> str:
    _nearer(subject, "transparent.png", "on-white.png", "on-black.png")
    return _same_pixels(subject, "transparent.png", "on-white.png")


def _container(subject: Subject) -> str:
    return _same_pixels(subject, "landscape.webp", "landscape.png")


def _nearer(subject: Subject, asked: str, right: str, wrong: str) -> str:
    """Check that a picture's vector lies nearer to that of its right reading than to that of the wrong one."""
    ours, rightly, wrongly = subject.vectors("image", [picture(name) for name in (asked, right, wrong)])
    to_right, to_wrong = cosines(np.stack([ours, ours]), np.stack([rightly, wrongly]))
    said = f"cosine of {asked} to {right} {to_right:.6f}, to {wrong} {to_wrong:.6f}"
    if not to_right > to_wrong:
        raise CheckFailed(f"{said}; the first is expected to be greater")
    return said


def _same_pixels(subject: Subject, one: str, other: str) -> str:
    vectors = subject.vectors("image", [picture(one), picture(other)])
    return f"{one} and {other}: {check_same(vectors[:1], vectors[1:], subject.same)}"


def _items(tower: TowerName) -> list[Item]:
    return list(CAPTIONS) if tower == "text" else [picture(name) for name in PICTURES]


_NEIGHBOURS = (
    "A vector depends on its neighbours or on its place: captions padded to the longest of their batch, statistics or "
    "scales taken over the batch, or answers in another order than the items"
)
_GOLDEN_MEANING = (
    "The vectors are not those of this checkpoint: another pre-processing (size, resampling, rescaling twice, crop), "
    "padding, tokenizer, pooling or precision. What is indexed with them can't be searched with right ones"
)
_ONE_FOR_ALL = "Different items get one vector: weights that were not loaded, or items that don't reach the model"
_RANDOM = "The model is not in evaluation mode (dropout), or requests get each other's results"

EMBEDDER_CHECKS: tuple[Check, ...] = (
    health_check("health", "embedder"),
    Check(
        "model stated",
        _model,
        "What it says of itself is not what it does: another service, an older one, or several behind one address",
    ),
    Check(
        "unit length",
        _unit_length,
        "Vectors are not scaled to length 1: inner products are no cosines, and long vectors win",
    ),
    Check("captions: golden vectors", _golden("text"), _GOLDEN_MEANING, "text"),
    Check("captions: distinct", _distinct("text"), _ONE_FOR_ALL, "text"),
    Check("captions: repeated", _repeated("text"), _RANDOM, "text"),
    Check("captions: among others", _among_others("text"), _NEIGHBOURS, "text"),
    Check(
        "captions: padding",
        _padding,
        "Captions are padded to the longest of their batch, not to the model's fixed length: SigLIP is pooled at the "
        "last position, so that a vector changes with its neighbours and is wrong with and without them",
        "text",
    ),
    Check(
        "captions: spelling",
        _spelling,
        "Captions are not lower-cased, or white space is not collapsed: SigLIP 2 loses 3.5 to 7 points of recall@1",
        "text",
    ),
    Check(
        "captions: too long",
        _truncation,
        "Captions longer than the model reads are refused, cut without a word, or cut elsewhere than at the end",
        "text",
    ),
    Check(
        "captions: a bad one",
        _fails_alone("text"),
        "A blank caption is embedded, or fails or changes the others of its request",
        "text",
    ),
    Check("pictures: golden vectors", _golden("image"), _GOLDEN_MEANING, "image"),
    Check("pictures: distinct", _distinct("image"), _ONE_FOR_ALL, "image"),
    Check("pictures: repeated", _repeated("image"), _RANDOM, "image"),
    Check("pictures: among others", _among_others("image"), _NEIGHBOURS, "image"),
    Check(
        "pictures: orientation",
        _orientation,
        "The EXIF orientation is not heeded: photographs of phones are embedded lying on their side",
        "image",
    ),
    Check(
        "pictures: transparency",
        _transparency,
        "Transparency is dropped or flattened on another colour than white: what lies behind it, mostly black, is seen",
        "image",
    ),
    Check(
        "pictures: container",
        _container,
        "The same pixels get another vector from another format: a reader swaps channels, or decodes with loss",
        "image",
    ),
    Check(
        "pictures: a bad one",
        _fails_alone("image"),
        "Bytes that are no picture are embedded, or fail or change the others of their request",
        "image",
    ),
)
"""In the order in which they are made."""
