"""The micro-batches of a step side by side on the cores of a CPU.

A tiny model's products are too small to be shared by cores: these wait for each other at every
operation. Here each core works on a micro-batch of its own instead (measured in docs/LOG.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from stentor.data.batch import Micro
from stentor.train.device import denormals_as_zero

Work = Callable[[Any, int, Micro], Tensor]
"""(model, number of the part, part) → its loss, after its gradients were added to the model's."""


class Lanes:
    """Threads that each have a copy of the model, with the same weights but gradients of its own.

    Which lane does which part follows from the parts alone, and the gradients of the lanes are
    added up in order, so a step of the same parts gives the same bits whichever thread is faster.
    """

    def __init__(self, model: Any, parameters: Mapping[str, Tensor], threads: int) -> None:
        """`threads`: how many cores there are to use; 1 works in the calling thread alone."""
        self._model, self._parameters, self._threads = model, parameters, threads
        self._copies: list[tuple[Any, dict[str, Tensor]]] = []
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def work(self, parts: Sequence[Micro], one: Work) -> list[Tensor]:
        """What `one` gives for each part; the sum of all gradients is in the parameters then."""
        lanes = min(self._threads, len(parts))
        if self._pool is None or lanes < 2:
            with denormals_as_zero():
                return [one(self._model, number, part) for number, part in enumerate(parts)]
        while len(self._copies) < lanes - 1:
            self._copies.append(_sharing(self._model, self._parameters))
        models = [self._model, *(model for model, _ in self._copies)]

        def lane(model: Any, numbers: Sequence[int]) -> dict[int, Tensor]:
            torch.set_num_threads(self._threads // lanes)
            with denormals_as_zero():
                return {number: one(model, number, parts[number]) for number in numbers}

        shares = shared_out([len(part.ids) + part.supervised for part in parts], lanes)
        running = [self._pool.submit(lane, *work) for work in zip(models, shares, strict=False)]
        wait(running)
        torch.set_num_threads(self._threads)  # new threads take the number that was last set
        found = dict(kv for future in running for kv in future.result().items())
        for _, theirs in self._copies[: lanes - 1]:
            _add_gradients(self._parameters, theirs)
        return [found[number] for number in range(len(parts))]


def shared_out(costs: Sequence[int], lanes: int) -> list[list[int]]:
    """The numbers of the parts that each lane does: the dearest first, to the lane with least.

    (Graham's rule of the longest processing time, 1969.)
    """
    shares: list[list[int]] = [[] for _ in range(lanes)]
    for number in sorted(range(len(costs)), key=lambda n: (-costs[n], n)):
        min(shares, key=lambda share: sum(costs[n] for n in share)).append(number)
    return [sorted(share) for share in shares]


def spoken_share(tokens: int | None, lanes: int) -> str:
    """What goes through the model at a time, for the first lines of a run."""
    most = "whole micro-batches" if tokens is None else f"up to {tokens:,} tokens"
    return f"{most} at a time" + (f" in each of {lanes} lanes" if lanes > 1 else "")


def _sharing(model: Any, parameters: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A copy of a model that shares its weights, and its own view of each of `parameters`."""
    memo: dict[int, Any] = {id(b): b for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = torch.nn.Parameter(p.detach(), p.requires_grad)
    return copy.deepcopy(model, memo), {name: memo[id(p)] for name, p in parameters.items()}


def _add_gradients(parameters: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        gradient, theirs[name].grad = theirs[name].grad, None
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None:
            parameter.grad.add_(gradient)
