"""What the towers reach of the machine, and what a lower precision costs: random weights of published shapes at full
depth, and the trained demo checkpoint on its whole gallery.

Owns the measurements in process, without gRPC. ``python -m benchmarks.towers --output docs/results/embedder.md``.
"""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.report import machine, put
from embedder_service.backends import Backend, Precision, Tower
from embedder_service.backends.linear import linear_maker
from embedder_service.backends.precision import number_type
from embedder_service.backends.reference import ReferenceBackend
from embedder_service.sweep import sweep
from service_runtime.cores import usable_cores
from tests.conformance.families import FAMILIES, VOCABULARY, Family
from tests.conformance.gallery import Gallery, least_cosine, recall_at_1

_ITEMS = 4
"""Random items of each tower."""

_ROUNDS = 5
"""Product and pass are timed in turn so often, the quickest of each counts: a neighbour on the machine slows both."""

_SIZES = (1, 2, 4, 8, 16)

_SHAPES = ((2048, 2048, 2048), (1568, 768, 3072), (1568, 3072, 768), (1458, 1152, 4304), (1458, 4304, 1152))
"""(rows, inputs, outputs) of products: a square, and what the towers are made of. The quickest is the limit."""

_HEAD = (
    "tower",
    "precision",
    "items/s",
    "batch",
    "limit, items/s",
    "of the limit",
    "transformers' fp32, items/s",
    "greatest cosine difference to it",
)


def main(
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the tables into.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Measure these families alone.")] = None,
    precision: Annotated[list[Precision] | None, typer.Option(help="Measure these precisions alone.")] = None,
    speed: Annotated[bool, typer.Option(help="Measure how fast the families are, too.")] = True,
) -> None:
    """Measure, print, and write."""
    precisions = tuple(precision or (Precision.FP32, Precision.BF16, Precision.INT8))
    for name in (family or FAMILIES) if speed else ():
        _show(f"towers of {name}", _speed(name, FAMILIES[name], precisions), output)
        gc.collect()
    _show("precision", _costs(precisions), output)


def _show(mark: str, text: str, output: Path | None) -> None:
    Console(width=200).print(text)
    if output is not None:
        put(output, mark, text)


def _speed(name: str, family: Family, precisions: Sequence[Precision]) -> str:
    torch.set_num_threads(usable_cores())
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (_ITEMS, family.image_size, family.image_size, 3), dtype=np.uint8)
    rows = {Tower.TEXT: family.token_ids(_ITEMS), Tower.IMAGE: pixels}
    gflop = {Tower.TEXT: family.text_gflop, Tower.IMAGE: family.image_gflop}
    model = family.model()
    towers = {Tower.TEXT: model.text_model, Tower.IMAGE: model.vision_model}
    reference = ReferenceBackend(towers, family.preprocessing())
    exact = {tower: reference.forward(tower, batch) for tower, batch in rows.items()}
    usual = {tower: _ITEMS / min(_timed(reference, tower, rows[tower]) for _ in range(2)) for tower in Tower}
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for precision in precisions:
        backend = family.backend(model, precision, usable_cores())
        for tower in Tower:
            size, rate, flops = _rates(backend, tower, rows[tower])
            difference = 1 - least_cosine(backend.forward(tower, rows[tower]), exact[tower])
            limit = flops / gflop[tower]
            measured = (f"{rate:.2f}", str(size), f"{limit:.2f}", f"{rate / limit:.0%}", f"{usual[tower]:.2f}")
            lines.append((f"{tower} ({gflop[tower]} GFLOP)", str(precision), *measured, f"{difference:.1e}"))
        del backend
        gc.collect()
    title = (
        f"{name}: random weights of its shape at full depth (a vocabulary of {VOCABULARY:,}), {_ITEMS} random items of "
        f"each tower; {machine('torch')}, {usable_cores()} threads, in process. The limit is the quickest matrix "
        f"product of the same type; product and pass are timed in turn, the best of {_ROUNDS} rounds each."
    )
    return f"{title}\n\n{_table(lines)}"


def _rates(backend: Backend, tower: Tower, rows: np.ndarray) -> tuple[int, float, float]:
    """(batch that the warm-up would choose, items a second in it, GFLOP/s of the quickest product meanwhile)."""
    size = sweep(backend, tower, rows[0], _SIZES, 20.0).batch_limit
    batch = np.resize(rows, (size, *rows.shape[1:]))
    flops, seconds = 0.0, float("inf")
    for _ in range(_ROUNDS):
        flops = max(flops, gflops(backend.precision))
        seconds = min(seconds, _timed(backend, tower, batch))
    return size, size / seconds, flops


def _costs(precisions: Sequence[Precision]) -> str:
    """What each precision does to the demo checkpoint's vectors and to what captions find."""
    gallery = Gallery.read()
    exact = gallery.vectors(gallery.backend(Precision.FP32, usable_cores()))
    head = ("precision", "least cosine of a caption", "least cosine of a picture", "recall@1", "change, points")
    lines: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for precision in precisions:
        vectors = gallery.vectors(gallery.backend(precision, usable_cores()))
        least = [f"{least_cosine(vectors[tower], exact[tower]):.6f}" for tower in Tower]
        change = 100 * (recall_at_1(vectors) - recall_at_1(exact))
        lines.append((str(precision), *least, f"{recall_at_1(vectors):.2%}", f"{change:+.2f}"))
    count = len(exact[Tower.TEXT])
    title = (
        f"The demo checkpoint on the {count:,} captions and pictures of its gallery, against its own vectors in fp32; "
        f"{machine('torch')}. At least 0.999 and at most 0.2 points are asked of bf16, 0.99 and 1.0 points of "
        "int8."
    )
    return f"{title}\n\n{_table(lines)}"


def gflops(precision: Precision) -> float:
    """Of the quickest of a few matrix products, by what multiplies quickest here."""
    best = 0.0
    for rows, inputs, outputs in _SHAPES:
        multiply = _product(precision, rows, inputs, outputs)
        multiply()
        best = max(best, 2e-9 * rows * inputs * outputs / min(_seconds(multiply) for _ in range(10)))
    return best


def _product(precision: Precision, rows: int, inputs: int, outputs: int) -> Callable[[], torch.Tensor]:
    if precision is Precision.INT8:  # the product alone, without the rounding that goes before it
        shapes = ((rows, inputs), (outputs, inputs))
        given, weight = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in shapes)
        return lambda: torch._int_mm(given, weight.T)
    dtype = number_type(precision)
    numbers = torch.randn(rows, inputs).to(dtype)
    layer = linear_maker(dtype, "cpu")(torch.randn(outputs, inputs), torch.zeros(outputs), None)
    return lambda: layer(numbers)


def _timed(backend: Backend, tower: Tower, batch: np.ndarray) -> float:
    return _seconds(lambda: backend.forward(tower, batch))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _table(lines: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    typer.run(main)
