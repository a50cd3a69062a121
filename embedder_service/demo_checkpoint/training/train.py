"""Train the demo checkpoint: two processes of one thread each, averaging gradients, resumable.

Owns the losses, the schedule and the loop. ``python -m embedder_service.demo_checkpoint.training.train --help``.
Sources: SigLIP's sigmoid loss (arXiv 2303.15343) with several positives a row; supervised contrastive loss (arXiv
2004.11362) between styles; proxies (arXiv 1703.07464) that carry the first hours and fade.
"""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, cast

import torch
import torch.distributed as dist
import typer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from transformers import SiglipModel

from . import art
from .captions import CaptionWriter
from .data import Batch, Sampler
from .drawings import load_drawings
from .evaluate import quick_recall
from .network import EOS_ID, IMAGE_SIZE, PAD_ID, PATCH_SIZE, TEXT_LENGTH, VOCABULARY, embed_ids, embed_pixels, new_model

PROCESSES = 2
PICTURES_PER_PROCESS = 64
WARMUP_STEPS = 200
LEARNING_RATE = 1e-3
FINISHING_RATE = 0.5
TWINS_RATE = 0.25
TWINS_SHARE = 0.6
AVERAGING_RATE = 0.2
LATER_WARMUP_STEPS = 40
ALL_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
LEAST_PROXY_WEIGHT = 0.1
LOG_STEPS = 50
SAVE_STEPS = 500
PROXY_SCALE = 16.0
CONTRAST_TEMPERATURE = 0.07

_MALLOC = {
    # glibc gives large tensors back to the kernel at every step and faults them in again; keeping them is faster.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def train_tokenizer(emoji: list[art.Emoji], seed: int) -> Tokenizer:
    """Byte-level BPE of 4,096 on our own captions; lower-cases, appends EOS, cuts and pads to 20."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CaptionWriter(emoji).corpus(Random(seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS_ID)])
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=PAD_ID, pad_token="<pad>")  # noqa: S106
    return tokenizer


class Trainee(nn.Module):
    """The model and the proxies (one vector an emoji) that only training uses."""

    def __init__(self, emoji_count: int) -> None:
        super().__init__()
        self.model: SiglipModel = new_model()
        self.proxies = nn.Parameter(functional.normalize(torch.randn(emoji_count, 192), dim=1))

    def losses(
        self, batch: Batch, keep: int, proxy_weight: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The parts of the loss, each a mean over the batch; ``total`` is what is minimised."""
        images = embed_pixels(self.model, batch.pixels, keep, generator)
        texts = embed_ids(self.model, batch.ids)
        logits = texts @ images.T * self.model.logit_scale.exp() + self.model.logit_bias
        sigmoid = -(functional.logsigmoid(batch.pairs * logits) * batch.pairs.abs()).sum() / len(images)
        contrast = _contrast(images[batch.single], batch.emoji[batch.single])
        proxies = functional.normalize(self.proxies, dim=1)
        proxy = functional.cross_entropy(images @ proxies.T * PROXY_SCALE, batch.image_truth)
        proxy_text = functional.cross_entropy(texts @ proxies.T * PROXY_SCALE, batch.text_truth)
        total = sigmoid + 0.5 * contrast + proxy_weight * (proxy + 0.5 * proxy_text)
        return {"total": total, "sigmoid": sigmoid, "contrast": contrast, "proxy": proxy, "proxy_text": proxy_text}


def _contrast(images: torch.Tensor, emoji: torch.Tensor) -> torch.Tensor:
    """Image-image InfoNCE where the positives are other pictures of the same emoji."""
    self_mask = torch.eye(len(images), dtype=torch.bool)
    similarity = (images @ images.T / CONTRAST_TEMPERATURE).masked_fill(self_mask, -1e9)
    positive = (emoji[:, None] == emoji[None, :]) & ~self_mask
    log_share = similarity.log_softmax(dim=1)
    per_row = -(log_share * positive).sum(1) / positive.sum(1).clamp(min=1)
    return per_row[positive.any(1)].mean()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of each round. Every round but the first starts from the weights alone, with a fresh optimiser."""

    first: int
    finishing: int
    twins: int
    averaging: int

    @property
    def steps(self) -> int:
        """Steps of all rounds."""
        return self.first + self.finishing + self.twins + self.averaging

    @property
    def averaging_from(self) -> int:
        """Step from which the weights are averaged; the mean is what is kept."""
        return self.steps - self.averaging

    def begins_round(self, step: int) -> bool:
        """Whether a round after the first begins here."""
        return step in (self.first, self.first + self.finishing, self.averaging_from)


@dataclass(frozen=True, slots=True)
class Moment:
    """What holds at one step."""

    rate: float
    """Factor on the learning rate."""
    keep: int
    """Patches seen of each picture."""
    proxy_weight: float
    twins: float
    """Share of pairs of pictures that are one drawing twice."""


def moment(step: int, plan: Plan) -> Moment:
    """What holds at a step: everything goes by steps, nothing by the clock.

    First round: warm-up, then cosine to 1 %, with patches dropped until nine tenths of it and proxies that fade. Those
    after it see whole pictures and no proxies. Finishing: a short warm-up, then cosine to nothing. Twins: the same, for
    copies. Averaging: a constant rate, the noise of which the mean of all its weights takes away.
    """
    if step < plan.first:
        progress = step / plan.first
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * _cosine(progress))
        keep = 24 if progress < 0.45 else 32 if progress < 0.9 else ALL_PATCHES
        return Moment(rate, keep, max(LEAST_PROXY_WEIGHT, 1.0 - progress / 0.8), twins=0.0)
    if step < plan.first + plan.finishing:
        done, rate, twins = step - plan.first, FINISHING_RATE, 0.0
        rate *= _cosine(done / plan.finishing)
    elif step < plan.averaging_from:
        done, rate, twins = step - plan.first - plan.finishing, TWINS_RATE, TWINS_SHARE
        rate *= _cosine(done / plan.twins)
    else:
        done, rate, twins = step - plan.averaging_from, AVERAGING_RATE, TWINS_SHARE
    return Moment(rate * min(1.0, (done + 1) / LATER_WARMUP_STEPS), ALL_PATCHES, 0.0, twins)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(trainee: Trainee) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only; ten times the rate for scale and bias."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    scalars: list[nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        if name.endswith(("logit_scale", "logit_bias")):
            scalars.append(parameter)
        else:
            (vectors if parameter.ndim < 2 else matrices).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": 0.1, "rate": LEARNING_RATE},
        {"params": vectors, "weight_decay": 0.0, "rate": LEARNING_RATE},
        {"params": scalars, "weight_decay": 0.0, "rate": 10 * LEARNING_RATE},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat.div_(dist.get_world_size())
    offset = 0
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()


def _work(rank: int, folder: Path, node_modules: Path, plan: Plan, seed: int, processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    state_path = folder / "training-state.pt"
    resumed = torch.load(state_path, weights_only=True) if state_path.exists() else None
    begin = int(resumed["step"]) if resumed else 0
    # A resumed run draws other batches than an unbroken one would: the seed names the sitting too.
    sampler = Sampler(node_modules, folder / "drawings", tokenizer, seed * 1000 + begin * 10 + rank)
    generator = torch.Generator().manual_seed(seed * 7 + begin * 10 + rank)
    torch.manual_seed(seed)
    trainee = Trainee(len(sampler.emoji))
    optimizer = _optimizer(trainee)
    average = AveragedModel(trainee.model)
    if resumed:
        trainee.load_state_dict(resumed["trainee"])
        optimizer.load_state_dict(resumed["optimizer"])
        average.load_state_dict(resumed["average"])
    totals: dict[str, float] = {}
    started = time.perf_counter()
    for step in range(begin, plan.steps):
        now = moment(step, plan)
        if plan.begins_round(step):
            optimizer = _optimizer(trainee)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * now.rate
        batch = sampler.draw(PICTURES_PER_PROCESS, now.twins)
        losses = trainee.losses(batch, now.keep, now.proxy_weight, generator)
        _descend(trainee, optimizer, losses["total"], processes)
        _update_average(average, trainee.model, afresh=step <= plan.averaging_from)
        for name, value in losses.items():
            totals[name] = 0.99 * totals.get(name, value.item()) + 0.01 * value.item()
        done = step + 1
        last = done == plan.steps
        if rank != 0 or (done % LOG_STEPS and not last):
            continue
        seconds = (time.perf_counter() - started) / (done - begin)
        line = {"step": done, "of": plan.steps, "seconds_per_step": round(seconds, 3)}
        line |= {"scale": round(trainee.model.logit_scale.exp().item(), 2)}
        line |= {name: round(value, 3) for name, value in totals.items()}
        if done % SAVE_STEPS == 0 or last:
            line |= quick_recall(cast("SiglipModel", average.module), tokenizer, node_modules, folder / "drawings")
            _save(state_path, done, trainee, optimizer, average)
        _log(folder, line)
    if processes > 1:
        dist.destroy_process_group()


def _descend(trainee: Trainee, optimizer: torch.optim.Optimizer, loss: torch.Tensor, processes: int) -> None:
    """One step on the gradients of all processes, clipped to length 1."""
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    trainee.zero_grad(set_to_none=True)
    loss.backward()
    if processes > 1:
        _average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _update_average(average: AveragedModel, model: SiglipModel, *, afresh: bool) -> None:
    """Take the weights of this step into the mean, or begin it with them."""
    if afresh:
        average.n_averaged.zero_()
    average.update_parameters(model)


def _log(folder: Path, line: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    typer.echo(json.dumps(line))


def _save(path: Path, step: int, trainee: Trainee, optimizer: torch.optim.Optimizer, average: AveragedModel) -> None:
    partial = path.with_suffix(".part")
    states = {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
    torch.save({"step": step, **states}, partial)
    partial.rename(path)


def main(
    node_modules: Annotated[Path, typer.Option(help="Where npm installed the packages of package.json.")],
    folder: Annotated[Path, typer.Option(help="Where drawings, logs and the training state are kept.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps; 128 pictures each.")] = 5000,
    finishing: Annotated[int, typer.Option(help="Steps of the finishing round after them.")] = 1500,
    twins: Annotated[int, typer.Option(help="Steps of the round for copies after that.")] = 700,
    averaging: Annotated[int, typer.Option(help="Steps of the last round, whose mean weights are kept.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 20,
    processes: Annotated[int, typer.Option(help="Processes that average gradients.")] = PROCESSES,
) -> None:
    """Train, or go on where the last run in FOLDER stopped."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    emoji = art.read_emoji(node_modules)
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(emoji, seed).save(str(folder / "tokenizer.json"))
    (folder / "rendezvous").unlink(missing_ok=True)
    os.environ |= _MALLOC | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for style in art.STYLES:
        load_drawings(node_modules, style, emoji, folder / "drawings")
    spawn(_work, (folder, node_modules, Plan(steps, finishing, twins, averaging), seed, processes), nprocs=processes)


if __name__ == "__main__":
    typer.run(main)
