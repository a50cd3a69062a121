"""Augmentation of a batch of RGBA drawings into model input.

Owns geometry, backgrounds, colour, blur, noise and JPEG. Works on whole batches in torch, because 2 cores must render
several hundred pictures a second beside the training itself.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .captions import COLOURS

_NAMES = list(COLOURS)
_PALETTE = torch.tensor([COLOURS[name] for name in _NAMES], dtype=torch.float32) / 255.0

Background = str | None


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _affine(count: int, mirror: torch.Tensor, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(count, 2, 3) matrices from output to input coordinates."""
    angle = (
        _uniform((count,), -25.0, 25.0, generator) * math.pi / 180.0 * (torch.rand(count, generator=generator) < 0.6)
    )
    size = _uniform((count,), 0.62, 1.08, generator)
    close_up = torch.rand(count, generator=generator) < 0.2
    size = torch.where(close_up, _uniform((count,), 1.05, 1.4, generator), size)
    stretch = torch.exp(_uniform((count,), -0.14, 0.14, generator))
    size = torch.where(scene != 0, size.clamp(max=1.05) * 0.52, size)
    shear = _uniform((count,), -0.12, 0.12, generator)
    sign = torch.where(mirror, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    inverse_x, inverse_y = sign / (size * stretch), stretch / size
    shift = _uniform((count, 2), -0.14, 0.14, generator)
    shift[:, 0] += scene * 0.48
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = inverse_x * cos, inverse_x * (sin + shear)
    matrix[:, 1, 0], matrix[:, 1, 1] = -inverse_y * sin, inverse_y * cos
    matrix[:, :, 2] = -(matrix[:, :, :2] @ shift.unsqueeze(-1)).squeeze(-1)
    return matrix


def place(
    drawings: torch.Tensor, size: int, mirror: torch.Tensor, scene: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw each (4, h, w) uint8 RGBA at random scale, angle and place on a transparent (4, size, size) canvas.

    ``mirror`` flips; ``scene`` is -1, 0 or 1: the left half, the whole, the right half of the canvas.
    Returns premultiplied float RGBA in [0, 1], shape (n, 4, size, size).
    """
    layers = drawings.float().div_(255.0)
    layers[:, :3] *= layers[:, 3:]
    grid = functional.affine_grid(
        _affine(len(drawings), mirror, scene, generator), [len(drawings), 4, size, size], align_corners=False
    )
    return functional.grid_sample(layers, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def backgrounds(count: int, size: int, generator: torch.Generator) -> tuple[torch.Tensor, list[Background]]:
    """(count, 3, size, size) backgrounds and the name of each that has one: white, named, plain or a gradient."""
    kind = torch.rand(count, generator=generator)
    named = torch.randint(len(_NAMES), (count,), generator=generator)
    first = torch.rand(count, 3, generator=generator)
    second = torch.rand(count, 3, generator=generator)
    white, is_named, plain = kind < 0.5, (kind >= 0.5) & (kind < 0.7), (kind >= 0.7) & (kind < 0.8)
    jitter = _uniform((count, 3), -0.06, 0.06, generator)
    first = torch.where(is_named[:, None], (_PALETTE[named] + jitter).clamp(0, 1), first)
    first = torch.where(white[:, None], 1.0 - 0.04 * first, first)
    second = torch.where((white | is_named | plain)[:, None], first, second)
    angle = _uniform((count, 1, 1), 0.0, 2 * math.pi, generator)
    axis = torch.linspace(-0.7, 0.7, size)
    ramp = (0.5 + torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]).clamp(0, 1)
    canvas = first[:, :, None, None] * (1 - ramp[:, None]) + second[:, :, None, None] * ramp[:, None]
    return canvas, [_NAMES[int(n)] if bool(flag) else None for n, flag in zip(named, is_named, strict=True)]


def photograph(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colour shift, blur, noise and JPEG on some of (n, 3, s, s) images in [0, 1]. Returns the same shape and range."""
    count = len(images)
    some = torch.rand(count, 5, generator=generator)
    angle = _uniform((count,), -0.5, 0.5, generator) * (some[:, 0] < 0.4)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # A rotation about the grey axis turns hues and leaves greys alone.
    third, root = (1 - cos) / 3.0, sin / math.sqrt(3.0)
    row = torch.stack((cos + third, third - root, third + root), dim=1)
    turn = torch.stack((row, row.roll(1, 1), row.roll(2, 1)), dim=1)
    gain = 1 + _uniform((count, 1, 1), -0.25, 0.25, generator) * (some[:, 1] < 0.6)[:, None, None]
    tint = 1 + _uniform((count, 3, 1), -0.12, 0.12, generator) * (some[:, 1] < 0.6)[:, None, None]
    turn = turn * gain * tint
    grey = (some[:, 2] < 0.06)[:, None, None]
    turn = torch.where(grey, torch.tensor([0.3, 0.59, 0.11]).expand(count, 3, 3), turn)
    contrast = 1 + _uniform((count, 1, 1), -0.25, 0.25, generator) * (some[:, 1] < 0.6)[:, None, None]
    flat = torch.bmm(turn, images.flatten(2))
    flat = (flat - 0.6) * contrast + 0.6
    images = flat.view_as(images)
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images = torch.where((some[:, 3] < 0.15)[:, None, None, None], blurred, images)
    noise = _uniform((count, 1, 1, 1), 0.0, 0.06, generator) * (some[:, 4] < 0.25)[:, None, None, None]
    images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    for index in torch.nonzero(torch.rand(count, generator=generator) < 0.1).flatten().tolist():
        quality = int(torch.randint(15, 60, (1,), generator=generator))
        images[index] = _jpeg(images[index], quality)
    return images


def _jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    buffer = io.BytesIO()
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1).float().div(255.0)
