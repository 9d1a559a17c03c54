"""Copies of models for ONNX Runtime: each is made once and kept by the hash of what it holds."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from stentor.data.files import atomic, cache_folder, sha256
from stentor.errors import ParityError
from stentor.generate.backend import Backend

KINDS = ("fp32", "int8", "int4")
VERSION = 2
"""Goes up when the graph changes, so that older copies are made again."""
_MOST = 1_000_000_000  # bytes of copies that are kept; those unused for longest go first


def content_of_folder(folder: Path) -> str:
    """The hash of a model folder's weights and of the configuration that says how they work."""
    parts = [sha256(folder / name) for name in ("model.safetensors", "config.json")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def content_of_model(model: Any) -> str:
    """The same for a model that was loaded from anything else."""
    import torch

    digest = hashlib.sha256(
        json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode()
    )
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def path_of(content: str, kind: str) -> Path:
    """Where the copy of a model with this content is kept."""
    key = hashlib.sha256(f"{VERSION} {kind} {content}".encode()).hexdigest()[:20]
    return cache_folder() / "decoding" / f"{key}-{kind}.onnx"


def make(model: Any, kind: str, file: Path) -> None:
    """Write the copy of a Llama of `transformers`; InputError for a shape that can't be."""
    from stentor.generate.onnx_copy import draw

    content = draw(model, kind).SerializeToString()
    with atomic(file) as stream:
        stream.write(content)
    _drop_old(file)


def note_use(file: Path) -> None:
    """So that a copy in use is not among the first to go."""
    try:
        os.utime(file)
    except OSError:  # somebody else's cache may be read, if not written
        return


def _drop_old(new: Path) -> None:
    files = [(f.stat(), f) for f in new.parent.glob("*.onnx") if f != new]
    size = new.stat().st_size
    for state, file in sorted(files, key=lambda pair: -pair[0].st_mtime):
        size += state.st_size
        if size > _MOST:
            file.unlink(missing_ok=True)


def check(backend: Backend, reference: Backend) -> None:
    """ParityError unless the logits after a few tokens agree to a thousandth of their spread."""
    found = []
    for one in (reference, backend):
        cache = one.new_cache(1, 16)
        many = one.forward(np.array([[1, 3, 5, 7, 11, 13]]), np.array([6]), cache).copy()
        found.append((many, one.forward(np.array([[17]]), np.array([1]), cache).copy()))
    for theirs, ours in zip(*found, strict=True):
        gap, spread = float(np.abs(theirs - ours).max()), float(theirs.std())
        if not gap <= 1e-3 * max(spread, 1e-3):
            raise ParityError(
                f"the copy for ONNX Runtime is not the same model (logits differ by {gap:.2g}, "
                f"their spread is {spread:.2g}); take --backend torch, and tell us"
            )
