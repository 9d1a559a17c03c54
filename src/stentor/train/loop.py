"""THE training loop: every phase of fine-tuning, and pretraining, is one call of `train`.

A step is a pure function of (weights, optimiser state, seed, phase, step number): batches come
from `Stream.batch(step)` and random numbers are seeded anew at every step, so on a CPU a run that
is killed and resumed, with the same number of threads, ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from stentor.data.batch import Batch, Micro
from stentor.errors import TrainingError
from stentor.model.forward import bare, hidden_states
from stentor.model.head import head_loss
from stentor.model.layout import padded_rows
from stentor.model.lora import dropout_from
from stentor.train import checkpoint as checkpoints
from stentor.train.device import Machine
from stentor.train.display import Display
from stentor.train.ema import MovingAverage, copy_into
from stentor.train.lanes import Lanes
from stentor.train.optimiser import set_rates
from stentor.train.rundir import RunDir

_SKIPS = 20  # fp16 steps without a finite gradient in a row; by then its scale is 2^20 times less


class Stream(Protocol):
    """Gives the batch of any step, the same one however often it is asked."""

    def batch(self, step: int) -> Batch: ...


Objective = Callable[[Any, Micro], tuple[Tensor, Tensor]]
"""(model, micro-batch) → (sum of losses with gradient, each loss)."""


def token_loss(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
    """Cross entropy in nats of the supervised tokens of a micro-batch: (sum, each (M,)).

    Weights of tokens, unlikelihood and guesses count in the sum's gradient, not in its value.
    """
    hidden = hidden_states(model, part.ids, part.layout, part.places)
    total, each = head_loss(
        hidden, head_of(model, part), part.targets, offset=part.offset, token_weights=part.weights,
        unwanted=part.spoken, unlikelihood=part.unlikelihood,
    )  # fmt: skip
    each = each[: len(each) - part.guesses]
    return total if part.weights is None else valued(each.sum(), total), each


def head_of(model: Any, part: Micro) -> Tensor:
    """The rows (K, H) of the head that the softmax of a micro-batch is taken over."""
    weight: Tensor = bare(model).lm_head.weight
    return weight if part.vocabulary is None else weight.index_select(0, part.vocabulary)


def plain_token_loss(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
    """The same by the forward of transformers: rows padded, prefixes repeated, all logits held."""
    rows = []
    for before, ids in padded_rows(part.ids, part.layout):
        logits = model(input_ids=ids, use_cache=False).logits[:, before:]
        rows.append(logits.reshape(-1, logits.shape[-1]))
    logits = torch.cat(rows)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if part.layout.dense is None:
        logits = logits.index_select(0, part.layout.inverse)
    logits = logits.index_select(0, part.places)
    if part.vocabulary is not None:
        logits = logits.index_select(1, part.vocabulary)
    if part.offset is not None:
        logits = logits + part.offset
    each = functional.cross_entropy(logits, part.targets, reduction="none")
    total, plain = each.sum(), each.detach()[: len(each) - part.guesses]
    if part.weights is not None:
        total = valued(plain.sum(), (each * part.weights).sum())
    return total, plain


def valued(value: Tensor, learned: Tensor) -> Tensor:
    """`value`, with the gradient of `learned`: what is reported beside what is learned from."""
    return value + (learned - learned.detach())


@dataclass(frozen=True)
class Evaluation:
    """A held-out loss in nats per token, and the same by source where there are several."""

    loss: float
    sources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One phase: what to train, on what, how."""

    number: int
    name: str
    model: Any
    parameters: Mapping[str, Tensor]
    """The trained parameters, in fp32."""
    stream: Stream
    steps: int
    optimisers: list[torch.optim.Optimizer]
    rate: Callable[[int], float]
    seed: int
    clip: float | None = 1.0
    ema: MovingAverage | None = None
    objective: Objective = token_loss
    evaluate: Callable[[int], Evaluation] | None = None
    """The held-out loss of the model as it stands after so many steps."""
    evaluate_every: int | None = None
    epoch: int | None = None
    """Steps of an epoch: there is an evaluation at the end of each."""
    keep_best: bool = True
    """Carry on the weights of the best evaluation; else the last ones, averaged where there is
    `ema`."""
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    fingerprint: str = ""
    carried: Mapping[str, Any] = field(default_factory=dict)
    """What every checkpoint of the phase remembers for the run."""


@dataclass
class Outcome:
    """What a phase came to."""

    steps: int
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    kept: str = "raw"
    """Which weights were carried on: `raw` or `ema`, and from which step."""
    kept_step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    examples: int = 0
    best_loss: float | None = None


def train(
    job: Job, machine: Machine, run: RunDir, display: Display, resume: checkpoints.Checkpoint | None
) -> Outcome:
    """Run a phase to its end and leave the weights to carry on in the model."""
    names = {p: n for n, p in job.parameters.items()}
    outcome = Outcome(steps=job.steps)
    best: dict[str, Tensor] = {}
    first = 0
    scaler = torch.amp.GradScaler(
        machine.device.type, enabled=machine.compute is torch.float16, init_scale=2.0**12
    )
    if resume is not None:
        first, outcome, best = _restore(job, resume, scaler)
    # makes the scale, which a process that has no micro-batch in its first step would lack
    scaler.scale(torch.zeros((), device=machine.device))
    skipped = 0
    job.model.train()
    display.new_phase()
    # the forward of transformers draws its dropout from one generator, part after part
    threads = 1 if job.objective is plain_token_loss else machine.lanes
    with Lanes(job.model, job.parameters, threads) as lanes:
        for step in range(first, job.steps):
            started = time.perf_counter()
            batch = job.stream.batch(step)
            # off the CPU, dropout is drawn by this seed: another in each process
            torch.manual_seed(_step_seed(job.seed, job.number, step) + machine.rank)
            factor = job.rate(step)
            set_rates(job.optimisers, factor)
            loss = _backward(job, batch, machine, scaler, step, lanes)
            norm = _update(job, machine, scaler, step)
            skipped = 0 if math.isfinite(norm) else skipped + 1
            if skipped == _SKIPS:
                raise TrainingError(
                    f"phase {job.name!r}, step {step + 1}: the gradient was not finite in "
                    f"{_SKIPS} steps in a row, however small its scale in fp16, and none of them "
                    "was taken; set train.precision=fp32 or lower the learning rate"
                )
            if job.ema is not None:
                job.ema.update(job.parameters)
            seconds = time.perf_counter() - started
            outcome.seconds += seconds
            outcome.tokens += batch.tokens
            outcome.examples += batch.examples
            facts = {
                "loss": loss,
                "rate": job.optimisers[-1].param_groups[0]["lr"],
                "gradient_norm": _finite(norm),
                "examples": batch.examples,
                "tokens": batch.tokens,
                "supervised": batch.supervised,
                "seconds": round(seconds, 4),
            }
            done = step + 1
            if job.evaluate is not None and _due(job, done):
                facts["evaluation"] = _evaluate(job, outcome, best, done)
                display.say(f"{job.name} {done}/{job.steps} {_spoken(facts['evaluation'])}")
            if machine.is_main:
                run.log(phase=job.number, step=step, name=job.name, **facts)
                display.step(job.name, done, job.steps, facts)
                if done % job.checkpoint_every == 0 and done < job.steps:
                    _save(job, run, outcome, best, done, names, scaler)
    if best:
        copy_into(job.parameters, best)
    else:
        outcome.kept_step = job.steps
        if job.ema is not None and (job.evaluate is None or not job.keep_best):
            copy_into(job.parameters, job.ema.average)
            outcome.kept = "ema"
    return outcome


def _finite(value: float) -> float | None:
    """For JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _step_seed(seed: int, phase: int, step: int) -> int:
    """A seed for the random numbers of one step (a splitmix-like mix of the three)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + phase * 0xBF58476D1CE4E5B9 + step) % 2**63
    return mixed ^ (mixed >> 31)


def _backward(
    job: Job, batch: Batch, machine: Machine, scaler: torch.amp.GradScaler, step: int, lanes: Lanes
) -> float:
    """Gradients of the token-weighted mean loss; returns that loss."""
    step_seed = _step_seed(job.seed, job.number, step)

    def one(model: Any, number: int, part: Micro) -> Tensor:
        local = part.to(machine.device)
        place = machine.rank + number * machine.processes
        seed = (step_seed + place * 0x94D049BB133111EB) % 2**63
        with machine.autocast(), dropout_from(seed):
            loss, each = job.objective(model, local)
        if not torch.isfinite(loss):
            _stop_not_finite(job, part, each, step)
        scaler.scale(loss / batch.supervised).backward()
        return loss.detach().cpu().double()  # Apple's GPUs have no 64 bits

    own = batch.parts[machine.rank :: machine.processes]
    total = sum(lanes.work(own, one), torch.zeros((), dtype=torch.float64))
    summed = machine.sum(total.float().to(machine.device))
    return float(summed) / batch.supervised


def _stop_not_finite(job: Job, part: Micro, each: Tensor, step: int) -> None:
    bad = int((~torch.isfinite(each)).sum())
    rows = f"; rows: {', '.join(part.rows[:8])}" if part.rows else ""
    raise TrainingError(
        f"phase {job.name!r}, step {step + 1}: the loss is not finite in {bad} of "
        f"{len(each)} tokens{rows}; lower the learning rate or look at these rows "
        "(the last checkpoint is from before)"
    )


def _update(job: Job, machine: Machine, scaler: torch.amp.GradScaler, step: int) -> float:
    """Sum over processes, clip, step; returns the gradient norm before clipping."""
    machine.sum_gradients(job.parameters.values())
    for optimiser in job.optimisers:
        scaler.unscale_(optimiser)
    limit = job.clip if job.clip is not None else float("inf")
    norm = torch.nn.utils.clip_grad_norm_(job.parameters.values(), limit)
    if not scaler.is_enabled() and not torch.isfinite(norm):
        raise TrainingError(
            f"phase {job.name!r}, step {step + 1}: the gradient is not finite though the loss is; "
            "lower the learning rate (the last checkpoint is from before)"
        )
    for optimiser in job.optimisers:
        if torch.isfinite(norm):  # the scaler knows of each optimiser's own gradients alone
            scaler.step(optimiser)
        optimiser.zero_grad(set_to_none=True)
    scaler.update()
    return float(norm)


def _due(job: Job, done: int) -> bool:
    every = [e for e in (job.evaluate_every, job.epoch) if e is not None]
    return done == job.steps or any(done % e == 0 for e in every)


def _spoken(evaluation: Mapping[str, Any]) -> str:
    def shown(loss: float | None) -> str:
        return "not finite" if loss is None else f"{loss:.4f}"

    losses = ", ".join(f"{kind} {shown(found['loss'])}" for kind, found in evaluation.items())
    return f"evaluation loss: {losses}"


def _evaluate(
    job: Job, outcome: Outcome, best: dict[str, Tensor], done: int
) -> dict[str, dict[str, Any]]:
    """Evaluate the raw and the averaged weights; remember the best state so far."""
    assert job.evaluate is not None
    job.model.eval()
    found = {"raw": job.evaluate(done)}
    if job.ema is not None:
        with job.ema.applied(job.parameters):
            found["ema"] = job.evaluate(done)
    job.model.train()
    figures = {
        kind: {
            "loss": _finite(evaluation.loss),
            "sources": {name: _finite(loss) for name, loss in evaluation.sources.items()},
        }
        for kind, evaluation in found.items()
    }
    outcome.evaluations.append({"step": done, **figures})
    for kind, evaluation in found.items():
        better = math.isfinite(evaluation.loss) and (
            outcome.best_loss is None or evaluation.loss < outcome.best_loss
        )
        if job.keep_best and better:
            outcome.best_loss, outcome.kept, outcome.kept_step = evaluation.loss, kind, done
            source: Mapping[str, Tensor] = job.parameters
            if kind == "ema" and job.ema is not None:
                source = job.ema.average
            best.update({name: t.detach().clone() for name, t in source.items()})
    return figures


def _save(
    job: Job,
    run: RunDir,
    outcome: Outcome,
    best: Mapping[str, Tensor],
    done: int,
    names: Mapping[Tensor, str],
    scaler: torch.amp.GradScaler,
) -> None:
    tensors = {f"weight/{name}": p for name, p in job.parameters.items()}
    tensors |= checkpoints.optimiser_tensors(job.optimisers, names)
    facts: dict[str, Any] = {"outcome": vars(outcome), "carried": dict(job.carried)}
    facts["optimisers"] = checkpoints.optimiser_facts(job.optimisers, names)
    facts["scaler"] = scaler.state_dict()
    if job.ema is not None:
        tensors |= {f"ema/{name}": t for name, t in job.ema.average.items()}
        facts["ema_updates"] = job.ema.updates
    tensors |= {f"best/{name}": t for name, t in best.items()}
    state = checkpoints.Checkpoint(job.number, done, tensors, facts)
    checkpoints.write(run.checkpoints, state, job.fingerprint, keep=job.keep_checkpoints)


def _restore(
    job: Job, state: checkpoints.Checkpoint, scaler: torch.amp.GradScaler
) -> tuple[int, Outcome, dict[str, Tensor]]:
    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): t
            for name, t in state.tensors.items()
            if name.startswith(prefix)
        }

    copy_into(job.parameters, part("weight/"))
    checkpoints.restore_optimisers(
        job.optimisers, job.parameters, state.tensors, state.facts.get("optimisers", {})
    )
    if scaler.is_enabled() and state.facts.get("scaler"):
        scaler.load_state_dict(state.facts["scaler"])
    if job.ema is not None:
        for name, tensor in part("ema/").items():
            job.ema.average[name].copy_(tensor)
        job.ema.updates = state.facts["ema_updates"]
    outcome = Outcome(**state.facts["outcome"])
    outcome.steps = job.steps
    device = next(iter(job.parameters.values())).device
    return state.step, outcome, {n: t.to(device) for n, t in part("best/").items()}
