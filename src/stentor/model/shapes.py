"""Few shapes of products, where each costs: oneDNN compiles a kernel for every one in bf16."""

from __future__ import annotations

import torch

_MULTIPLE = 64


def compiles_for_shapes(device: str) -> bool:
    """Whether products are in bf16 on a CPU, whose kernels are compiled for each shape.

    That takes some milliseconds a shape, and about half a MiB that is never given back.
    """
    return (
        device == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def rounded_up(size: int) -> int:
    """The size that a dimension of `size` is filled up to."""
    return -(-size // _MULTIPLE) * _MULTIPLE
