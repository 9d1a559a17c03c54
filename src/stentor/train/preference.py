"""Learning from a better and a worse reply to the same prompt, without a reference model.

ORPO (Hong, Lee and Thorne, 2024): beside the loss on the chosen reply, the log of the odds ratio
between the chosen and the rejected one, with odds of the mean log probability of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stentor.data.batch import Micro
from stentor.model.forward import hidden_states
from stentor.model.head import head_loss
from stentor.train.loop import Objective, head_of, token_loss, valued


def preference_loss(weight: float) -> Objective:
    """The objective of a preference phase; `weight` is ORPO's lambda.

    The sum over a micro-batch is Σ over learned tokens of their cross entropy + weight · Σ over
    pairs of (tokens of the chosen reply) · −log σ(log odds(chosen) − log odds(rejected)), so that
    dividing by the learned tokens gives a mean in which a pair weighs as much as its reply.
    Weights of tokens and unlikelihood count in the gradient alone, beside the odds.
    """

    def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
        if not part.pairs:
            return token_loss(model, part)
        hidden = hidden_states(model, part.ids, part.layout, part.places)
        head = head_of(model, part)
        with torch.no_grad():
            _, each = head_loss(hidden.detach(), head.detach(), part.targets, offset=part.offset)
        value, token_weights = pair_weights(each, part, weight)
        if part.weights is not None:
            token_weights = token_weights + (part.weights - 1)
        total, _ = head_loss(
            hidden, head, part.targets, offset=part.offset, token_weights=token_weights,
            unwanted=part.spoken, unlikelihood=part.unlikelihood,
        )  # fmt: skip
        # the gradient of the weighted sum is the objective's
        return valued(value, total), each

    return objective


def pair_weights(each: Tensor, part: Micro, weight: float) -> tuple[Tensor, Tensor]:
    """(the objective; its derivative (M,) by the cross entropy (M,) of each token)."""
    leaf = each.detach().cpu().double().requires_grad_()  # Apple's GPUs have no 64 bits
    with torch.enable_grad():
        rows = leaf.split(part.lengths)
        rejected = {r for _, r in part.pairs}
        value = torch.stack([row.sum() for n, row in enumerate(rows) if n not in rejected]).sum()
        for better, worse in part.pairs:
            ratio = log_odds(-rows[better].mean()) - log_odds(-rows[worse].mean())
            value = value - weight * part.lengths[better] * functional.logsigmoid(ratio)
        (gradient,) = torch.autograd.grad(value, leaf)
    value, gradient = (t.detach().to(each.dtype).to(each.device) for t in (value, gradient))
    return value, gradient


def log_odds(mean: Tensor) -> Tensor:
    """log(p / (1 − p)) of p = exp(mean), mean < 0; safe where p is nearly 1."""
    return mean - torch.log(-torch.expm1(mean.clamp(max=-1e-6)))
