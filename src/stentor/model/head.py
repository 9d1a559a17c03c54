"""The loss of the head, in chunks, so that all logits are never held at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stentor.model.shapes import rounded_up


class _HeadLoss(torch.autograd.Function):
    """Sum of cross entropies of `hidden` @ `weight`.T against `targets`, in chunks.

    The gradients are formed chunk by chunk while the logits are at hand, so the backward
    pass multiplies nothing again, and only `chunk` × vocabulary logits exist at a time. The
    products are in the precision `compute`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        offset: Tensor | None,
        token_weights: Tensor | None,
        unwanted: Tensor | None,
        unlikelihood: float,
        chunk: int,
        compute: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
        # what needs a gradient is said of the tensors alone, not of whether it will be asked for
        needs_hidden, needs_weight = (learns and needs for needs in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        on_cpu = hidden.device.type == "cpu"
        buffer = hidden.new_empty(min(chunk, len(targets)), weight.shape[0])
        halved = compute is not hidden.dtype
        filled = halved and on_cpu  # one shape for all chunks, and few for all heads
        head = weight.to(compute)
        if filled:
            head = functional.pad(head, (0, 0, 0, rounded_up(len(head)) - len(head)))
        for start in range(0, len(targets), chunk):
            part = slice(start, min(start + chunk, len(targets)))
            rows, wanted = hidden[part].to(compute), targets[part]
            logits = buffer[: len(rows)]
            if filled:
                rows = functional.pad(rows, (0, 0, 0, chunk - len(rows)))
            if halved:
                logits.copy_((rows @ head.t())[: len(logits), : len(weight)])
            else:
                torch.mm(rows, head.t(), out=logits)
            if offset is not None:
                logits.add_(offset)
            # on a CPU softmax may overwrite its input, and it makes fewer passes than its parts
            probabilities = torch.softmax(logits, -1, out=logits if on_cpu else None)
            losses[part] = _surprise(
                probabilities, rows, head[: len(weight)], wanted, offset, exact
            )
            if grad_hidden is None and grad_weight is None:
                continue
            scale = torch.ones_like(wanted[:, None], dtype=probabilities.dtype)
            if token_weights is not None:
                scale = scale * token_weights[part, None].to(scale.dtype)
            if unwanted is not None:
                odds = _odds(probabilities, unwanted[part]) * unlikelihood
                probabilities.mul_(scale - odds.sum(1, keepdim=True))
                probabilities.scatter_add_(1, unwanted[part].clamp(min=0), odds)
            elif token_weights is not None:
                probabilities.mul_(scale)
            probabilities.scatter_add_(1, wanted[:, None], -scale)
            probabilities = probabilities.to(compute)
            if filled:
                columns, below = len(head) - len(weight), len(rows) - len(wanted)
                probabilities = functional.pad(probabilities, (0, columns, 0, below))
            if grad_hidden is not None:
                grad_hidden[part] = (probabilities @ head)[: len(wanted)]
            if grad_weight is not None and halved:
                grad_weight += (probabilities.t() @ rows)[: len(weight)]
            elif grad_weight is not None:
                grad_weight.addmm_(probabilities.t(), rows)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        weighted = losses if token_weights is None else losses * token_weights
        return weighted.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            None if grad_hidden is None else grad_hidden * scale,
            None if grad_weight is None else grad_weight * scale,
            *[None] * 8,
        )


def _surprise(
    probabilities: Tensor,
    rows: Tensor,
    head: Tensor,
    wanted: Tensor,
    offset: Tensor | None,
    exact: torch.dtype,
) -> Tensor:
    """−log p of the wanted pieces (M,); from their logits again where p is too small to hold."""
    p = probabilities.gather(1, wanted[:, None]).squeeze(1).to(exact)
    lost = (p < _SMALLEST).nonzero().squeeze(1)
    surprise = p.log_().neg_()
    if len(lost):
        logits = (rows[lost] @ head.t()).to(exact)
        logits = logits if offset is None else logits + offset
        surprise[lost] = functional.cross_entropy(logits, wanted[lost], reduction="none")
    return surprise


_SMALLEST = 1e-30  # below it fp32 soon has too few digits, or none


def _odds(probabilities: Tensor, pieces: Tensor) -> Tensor:
    """p / (1 − p) of each of `pieces` (M, C); 0 where there is none (−1)."""
    p = probabilities.gather(1, pieces.clamp(min=0)).clamp_(max=0.99)
    return (p / (1 - p)).masked_fill_(pieces < 0, 0.0)


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    offset: Tensor | None = None,
    token_weights: Tensor | None = None,
    unwanted: Tensor | None = None,
    unlikelihood: float = 0.0,
    chunk: int = 128,
) -> tuple[Tensor, Tensor]:
    """(sum, each) of the cross entropies in nats of predicting `targets` (M,).

    hidden (M, H): normalised states at the supervised places; weight (V, H): the head;
    offset (V,): added to the logits; token_weights (M,): of each in the sum (1). Only the sum
    carries a gradient; into it, but not into the value, goes `unlikelihood` times the sum of
    −log(1 − p) of the pieces in `unwanted` (M, C), −1 where a row has fewer. Under autocast to
    bfloat16 the products are in it, the softmax is not.
    """
    device, compute = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16:
        compute = torch.bfloat16  # not float16: gradients are formed here, before they are scaled
    with torch.autocast(device, enabled=False):
        out: tuple[Tensor, Tensor] = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, offset, token_weights, unwanted, unlikelihood, chunk, compute,
            torch.is_grad_enabled(),
        )  # fmt: skip
    return out
