"""The training loop: what a step does, when it stops, and that resuming changes no bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Single
from stentor.chat import SegmentTemplate
from stentor.data.batch import Batch, Micro
from stentor.data.encode import EncodedExample, encode
from stentor.data.examples import Tally, conversation
from stentor.data.stream import ExampleStream
from stentor.errors import TrainingError
from stentor.model import adapters
from stentor.recipe import AdapterPart, OptimiserPart, TrainPart
from stentor.train import checkpoint as checkpoints
from stentor.train import optimiser as optimisers
from stentor.train.device import Machine, machine
from stentor.train.display import Display
from stentor.train.ema import MovingAverage
from stentor.train.loop import Evaluation, Job, Outcome, token_loss, train
from stentor.train.rundir import RunDir

REPLIES = (
    "Yes.",
    "A river runs down to the sea, and the rain brings the water back.",
    "Bread is made of flour, water, salt and a little yeast.",
    "No, not today.",
    "The moon is smaller than the earth and goes around it once a month.",
    "Two.",
    "Plants need light, air and water to grow.",
    "I can't help with that, but a teacher can.",
)


@pytest.fixture(scope="module")
def examples(template: SegmentTemplate) -> list[EncodedExample]:
    """Eight rows with replies of very different lengths."""
    rows = [
        conversation(f"Question number {n}?", reply, "benign", f"rows.jsonl:{n + 1}")
        for n, reply in enumerate(REPLIES)
    ]
    return encode(rows, "rows", template, system="Be kind.", max_tokens=64, tally=Tally())


def stream(examples: list[EncodedExample], **changes: Any) -> ExampleStream:
    options: dict[str, Any] = {"batch": 8, "micro_batch": 8, "epochs": 3, "seed": 5}
    return ExampleStream(examples, **options | changes)


def make_job(model: Any, batches: Any, **changes: Any) -> Job:
    """A job that trains all of `model` with AdamW for all steps of `batches`."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    part = changes.pop("optimiser", OptimiserPart(epsilon=1e-6))
    ema = changes.pop("ema", None)
    built = changes.pop("optimisers", None) or optimisers.build(parameters, part, 1e-3)
    job = Job(
        number=1, name="main", model=model, parameters=parameters, stream=batches,
        steps=batches.steps, optimisers=built, rate=lambda step: 1.0, seed=3,
        ema=MovingAverage(parameters, ema) if ema else None,
    )  # fmt: skip
    return replace(job, **changes)


def go(job: Job, cpu: Machine, path: str = "run", *, resume: bool = False) -> Outcome:
    run = RunDir(Path(path))
    run.path.mkdir(exist_ok=True)
    state = checkpoints.newest(run.checkpoints, job.fingerprint) if resume else None
    with Display(quiet=True) as display:
        return train(job, cpu, run, display, state)


def metrics(path: str = "run") -> list[dict[str, Any]]:
    return RunDir(Path(path)).metrics()


def weights(model: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def new_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_768, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


# what a step does


def test_the_loss_of_a_step_is_the_mean_over_its_tokens_as_transformers_has_it(
    tiny_model: Any, examples: list[EncodedExample], cpu: Machine
) -> None:
    nats = tokens = 0.0
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.encoded.ids])
            logits = tiny_model(ids).logits[0, :-1].log_softmax(-1)
            each = -logits.gather(1, ids[0, 1:, None])[:, 0]
            due = torch.tensor(example.encoded.mask[1:])
            nats, tokens = nats + float((each * due).sum()), tokens + int(due.sum())
    go(make_job(tiny_model, stream(examples, epochs=1, micro_batch=3)), cpu)
    (step,) = metrics()
    assert step["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert step["supervised"] == tokens and step["examples"] == 8


def test_eight_micro_batches_of_one_take_the_steps_of_one_of_eight(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    found, losses = [], []
    for micro in (8, 3, 1):
        model = new_model()
        batches = stream(examples, micro_batch=micro)
        assert len(batches.batch(0).parts) == {8: 1, 3: 3, 1: 8}[micro]
        go(make_job(model, batches), cpu, f"run-{micro}")
        found.append(weights(model))
        losses.append([m["loss"] for m in metrics(f"run-{micro}")])
    start = weights(new_model())
    counts = {part.supervised for part in stream(examples, micro_batch=1).batch(0).parts}
    assert len(counts) > 3  # else a mean of means would do
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-6)
        for name, whole in found[0].items():
            moved = (whole - start[name]).abs().max()
            assert (found[other][name] - whole).abs().max() < 2e-3 * moved, name


def plain_sgd(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    for group in optimiser.param_groups:
        group["base_lr"] = rate
    return [optimiser]


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_logged(
    examples: list[EncodedExample], cpu: Machine, clip: float | None
) -> None:
    model = new_model()
    before = weights(model)
    batches = stream(examples, epochs=1)
    go(make_job(model, batches, optimisers=plain_sgd(model, 1.0), clip=clip), cpu)
    moved = torch.cat([(before[n] - p).flatten() for n, p in model.named_parameters()])
    (step,) = metrics()
    norm = step["gradient_norm"]
    assert norm > 0.1  # so that 0.01 clips
    assert float(moved.detach().norm()) == pytest.approx(min(norm, clip or norm), rel=1e-4)


def test_every_step_is_a_line_with_its_rate_and_counts(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    rates = [0.25, 1.0, 0.5]
    job = make_job(new_model(), stream(examples), rate=lambda step: rates[step], number=4)
    outcome = go(job, cpu)
    lines = metrics()
    assert [m["rate"] for m in lines] == [1e-3 * r for r in rates]
    assert [(m["phase"], m["step"], m["name"]) for m in lines] == [(4, n, "main") for n in range(3)]
    assert outcome.steps == 3 and outcome.examples == 24
    assert outcome.tokens == sum(m["tokens"] for m in lines)
    assert outcome.seconds == pytest.approx(sum(m["seconds"] for m in lines), abs=1e-3)


# evaluation, and which weights are carried on


class Scripted:
    """Held-out losses given beforehand; remembers the weights that were evaluated."""

    def __init__(self, job_model: Any, losses: list[float]) -> None:
        self.model, self.losses = job_model, list(losses)
        self.steps: list[int] = []
        self.seen: list[dict[str, Tensor]] = []
        self.training: list[bool] = []

    def __call__(self, step: int) -> Evaluation:
        self.steps.append(step)
        self.seen.append(weights(self.model))
        self.training.append(self.model.training)
        return Evaluation(self.losses.pop(0), {"rows": 1.0})


def evaluated(
    examples: list[EncodedExample], cpu: Machine, losses: list[float], **changes: Any
) -> tuple[Scripted, Outcome, Any]:
    model = new_model()
    scripted = Scripted(model, losses)
    batches = stream(examples, batch=4)  # 2 steps an epoch, 6 in all
    outcome = go(make_job(model, batches, evaluate=scripted, **changes), cpu)
    return scripted, outcome, model


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [6]),
        ({"evaluate_every": 4}, [4, 6]),
        ({"epoch": 2}, [2, 4, 6]),
        ({"evaluate_every": 3, "epoch": 2}, [2, 3, 4, 6]),
    ],
)
def test_there_is_an_evaluation_at_the_end_after_each_epoch_and_as_often_as_asked(
    examples: list[EncodedExample], cpu: Machine, changes: dict[str, Any], steps: list[int]
) -> None:
    scripted, outcome, _ = evaluated(examples, cpu, [1.0] * 9, **changes)
    assert scripted.steps == steps and not any(scripted.training)
    assert [e["step"] for e in outcome.evaluations] == steps
    assert [m["step"] + 1 for m in metrics() if "evaluation" in m] == steps


def test_the_best_weights_are_carried_on_and_named(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    scripted, outcome, model = evaluated(examples, cpu, [3.0, 1.0, 2.0], epoch=2)
    assert (outcome.kept, outcome.kept_step, outcome.best_loss) == ("raw", 4, 1.0)
    assert equal(weights(model), scripted.seen[1])
    assert not equal(weights(model), scripted.seen[2])


def test_averaged_weights_are_evaluated_beside_the_raw_and_win_when_they_are_better(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    scripted, outcome, model = evaluated(
        examples, cpu, [3.0, 2.5, 2.0, 1.0, 2.0, 1.5], epoch=2, ema=0.9
    )
    assert scripted.steps == [2, 2, 4, 4, 6, 6]
    assert (outcome.kept, outcome.kept_step) == ("ema", 4)
    assert equal(weights(model), scripted.seen[3])
    assert not equal(scripted.seen[2], scripted.seen[3])
    assert outcome.evaluations[1] == {
        "step": 4,
        "raw": {"loss": 2.0, "sources": {"rows": 1.0}},
        "ema": {"loss": 1.0, "sources": {"rows": 1.0}},
    }


def test_evaluating_does_not_change_the_training(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    evaluated(examples, cpu, [9.0 - n for n in range(12)], evaluate_every=1, ema=0.9)
    go(make_job(new_model(), stream(examples, batch=4), ema=0.9), cpu, "never")
    assert [m["loss"] for m in metrics()] == [m["loss"] for m in metrics("never")]


def test_averaged_weights_are_carried_on_where_nothing_is_held_out(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    job = make_job(new_model(), stream(examples), ema=0.9)
    outcome = go(job, cpu)
    assert (outcome.kept, outcome.kept_step, outcome.best_loss) == ("ema", 3, None)
    assert job.ema is not None
    assert equal(dict(job.parameters), job.ema.average)
    raw = make_job(new_model(), stream(examples))
    assert go(raw, cpu, "raw").kept == "raw"
    assert not equal(weights(raw.model), weights(job.model))


def test_a_loss_that_is_not_a_number_is_worse_than_any(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    nan = float("nan")
    scripted, outcome, model = evaluated(examples, cpu, [nan, 2.0, nan], epoch=2)
    assert (outcome.kept_step, outcome.best_loss) == (4, 2.0)
    assert equal(weights(model), scripted.seen[1])
    assert [e["raw"]["loss"] for e in outcome.evaluations] == [None, 2.0, None]
    scripted, outcome, model = evaluated(examples, cpu, [nan, nan, nan], epoch=2)
    assert (outcome.kept, outcome.kept_step, outcome.best_loss) == ("raw", 6, None)
    assert equal(weights(model), scripted.seen[2])


def test_without_choosing_the_best_the_last_weights_stay(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    scripted, outcome, model = evaluated(examples, cpu, [1.0, 2.0, 3.0], epoch=2, keep_best=False)
    assert (outcome.kept, outcome.kept_step) == ("raw", 6)
    assert equal(weights(model), scripted.seen[2])


def test_without_choosing_the_best_the_last_average_stays(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    scripted, outcome, model = evaluated(
        examples, cpu, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], epoch=2, keep_best=False, ema=0.5
    )
    assert (outcome.kept, outcome.kept_step, outcome.best_loss) == ("ema", 6, None)
    assert equal(weights(model), scripted.seen[5])
    assert not equal(weights(model), scripted.seen[4])


# random numbers and resuming


def adapted(dropout: float) -> Any:
    model = adapters.attach(new_model(), AdapterPart(rank=2, alpha=2), "base", seed=1)
    with torch.no_grad():  # a fresh B is zero, which hides dropout at first
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    adapters.set_dropout(model, dropout)
    return model


def test_dropout_depends_on_the_seed_the_phase_and_the_step_alone(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    def losses(path: str, **changes: Any) -> list[float]:
        torch.manual_seed(len(path))  # whatever came before
        go(make_job(adapted(0.5), stream(examples), **changes), cpu, path)
        return [m["loss"] for m in metrics(path)]

    first = losses("a")
    assert losses("bb") == first
    assert losses("ccc", seed=4)[0] != first[0]
    assert losses("dddd", number=2)[0] != first[0]


class Interrupted(Exception):
    """The end of a process."""


def stopping_at(step: int) -> Callable[[int], float]:
    def rate(number: int) -> float:
        if number == step:
            raise Interrupted
        return 1.0 / (1 + number)

    return rate


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_stopped_after_a_checkpoint_ends_with_the_same_bits(
    examples: list[EncodedExample], cpu: Machine, name: str, stop: int
) -> None:
    def job(rate: Callable[[int], float]) -> Job:
        part = OptimiserPart.model_validate({"name": name, "weight_decay": 0.1})
        model = adapted(0.3)
        return make_job(
            model, stream(examples, batch=4), optimiser=part, rate=rate, ema=0.99,
            checkpoint_every=1, epoch=2, carried={"phases": ["before"]},
            evaluate=lambda step: Evaluation([0.0, 0, 4.0, 0, 2.0, 0, 3.0][step]),
        )  # fmt: skip

    whole = job(stopping_at(-1))
    expected = go(whole, cpu, "whole")
    with pytest.raises(Interrupted):
        go(job(stopping_at(stop)), cpu, "broken")
    resumed = job(stopping_at(-1))
    found = go(resumed, cpu, "broken", resume=True)
    assert [m | {"seconds": 0} for m in metrics("broken")] == [
        m | {"seconds": 0} for m in metrics("whole")
    ]
    assert equal(weights(resumed.model), weights(whole.model))
    assert resumed.ema is not None and whole.ema is not None
    assert equal(resumed.ema.average, whole.ema.average)
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)
    assert (found.kept_step, found.best_loss) == (4, 2.0)


def test_checkpoints_are_written_as_often_as_asked_and_not_at_the_end(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    job = make_job(new_model(), stream(examples, batch=4), checkpoint_every=3, keep_checkpoints=9)
    go(job, cpu)
    assert [p.name for p in checkpoints.existing(Path("run/checkpoints"))] == ["01-0000003"]


class Numbers:
    """A stream of one number a step, for objectives that need no text."""

    steps = 6

    def batch(self, step: int) -> Batch:
        part = Micro(torch.tensor([step]), None, torch.tensor([0]), torch.tensor([0]))  # type: ignore[arg-type]
        return Batch((part,), 1)


def test_the_scale_of_fp16_gradients_survives_resuming() -> None:
    # The gradient, 30, overflows fp16 at the first scales (30 × 4096 > 65504): these steps are
    # left out and the scale halves. A resumed run that began again with 4096 would leave out more.
    half = Machine(torch.device("cpu"), torch.float16, machine(TrainPart(device="cpu")).accelerator)

    def job(rate: Callable[[int], float]) -> Job:
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1, bias=False)

        def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
            loss = model(torch.full((1, 1), 30.0)).float().sum()
            return loss, loss.detach()[None]

        return make_job(
            model, Numbers(), objective=objective, rate=rate, checkpoint_every=1, clip=None,
            optimisers=plain_sgd(model, 1e-3),
        )  # fmt: skip

    whole = job(lambda step: 1.0)
    start = whole.model.weight.item()
    go(whole, half, "whole")
    moved = start - whole.model.weight.item()
    assert moved == pytest.approx(5 * 0.03, rel=1e-3)  # of six steps the first was left out

    def stop(step: int) -> float:
        if step == 3:
            raise Interrupted
        return 1.0

    with pytest.raises(Interrupted):
        go(job(stop), half, "broken")
    resumed = job(lambda step: 1.0)
    go(resumed, half, "broken", resume=True)
    assert torch.equal(resumed.model.weight, whole.model.weight)


class OfTwo:
    """Stands for accelerate in the second of two processes, whose partner adds nothing."""

    num_processes, process_index, is_main_process = 2, 1, False

    def reduce(self, values: Tensor, how: str) -> Tensor:
        return values


def test_a_process_without_a_micro_batch_takes_part_in_a_step_of_fp16() -> None:
    second = Machine(torch.device("cpu"), torch.float16, OfTwo())
    model = torch.nn.Linear(1, 1, bias=False)
    outcome = go(make_job(model, Numbers(), optimisers=plain_sgd(model, 1.0)), second)
    assert outcome.steps == 6 and metrics() == []


def test_processes_draw_other_random_numbers_and_the_first_those_of_one_alone(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    def seeds(machine: Machine) -> list[int]:
        found = []

        def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
            found.append(torch.initial_seed())
            return token_loss(model, part)

        batches = stream(examples, micro_batch=4, epochs=1)
        go(make_job(new_model(), batches, objective=objective), machine)
        return found

    class First(OfTwo):
        process_index, is_main_process = 0, True

    alone, first, second = (
        seeds(m)
        for m in (cpu, *(Machine(cpu.device, cpu.compute, rank()) for rank in (First, OfTwo)))
    )
    assert set(alone) == set(first) and set(alone).isdisjoint(second)


def test_training_needs_no_64_bit_numbers_of_the_device(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
        loss, each = token_loss(model, part)
        return loss.as_subclass(Single), each

    go(make_job(new_model(), stream(examples), objective=objective), cpu, "single")
    go(make_job(new_model(), stream(examples)), cpu)
    assert [m["loss"] for m in metrics("single")] == [m["loss"] for m in metrics()]


# the watchdog


def test_a_loss_that_is_not_finite_stops_the_run_naming_step_and_rows(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    model = new_model()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # else all is NaN
    poisoned = examples[4].encoded.ids[-6]
    assert sum(poisoned in e.encoded.ids for e in examples) == 1
    with torch.no_grad():
        model.model.embed_tokens.weight[poisoned] = float("nan")
    batches = stream(examples, batch=2, micro_batch=1, epochs=1, seed=6)
    at = next(
        s for s in range(4)
        if any("rows.jsonl:5" in p.rows for p in batches.batch(s).parts)
    )  # fmt: skip
    assert at > 0
    with pytest.raises(TrainingError) as stopped:
        go(make_job(model, batches, checkpoint_every=1), cpu)
    supervised = examples[4].encoded.supervised  # NaN spoils all that attends with it
    assert str(stopped.value) == (
        f"phase 'main', step {at + 1}: the loss is not finite in {supervised} of {supervised} "
        "tokens; rows: rows.jsonl:5; lower the learning rate or look at these rows (the last "
        "checkpoint is from before)"
    )
    assert len(metrics()) == at
    last = checkpoints.newest(Path("run/checkpoints"), "")
    assert last is not None and last.step == at
    kept = last.tensors["weight/model.norm.weight"]
    assert torch.isfinite(kept).all()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_move(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    model = new_model()
    before = weights(model)

    def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
        loss, each = token_loss(model, part)
        return loss + (model.model.norm.weight[0] * 0).sqrt(), each

    with pytest.raises(TrainingError) as stopped:
        go(make_job(model, stream(examples), objective=objective), cpu)
    assert str(stopped.value) == (
        "phase 'main', step 1: the gradient is not finite though the loss is; lower the learning "
        "rate (the last checkpoint is from before)"
    )
    assert equal(weights(model), before)
    assert metrics() == []


def test_metrics_are_json_lines_that_other_tools_can_read(
    examples: list[EncodedExample], cpu: Machine
) -> None:
    go(make_job(new_model(), stream(examples, epochs=1)), cpu)
    text = Path("run/metrics.jsonl").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert text.endswith("\n")
    for line in text.splitlines():
        json.loads(line, parse_constant=refuse)


def test_gradients_of_fp16_that_are_never_finite_stop_the_run() -> None:
    half = Machine(torch.device("cpu"), torch.float16, machine(TrainPart(device="cpu")).accelerator)
    model = torch.nn.Linear(1, 1, bias=False)

    def objective(model: Any, part: Micro) -> tuple[Tensor, Tensor]:
        loss = model(torch.ones(1, 1)).float().sum()
        broken = loss + (model.weight * 0).sum().sqrt() if int(part.ids[0]) else loss
        return broken, loss.detach()[None]

    class Many(Numbers):
        steps = 50

    with pytest.raises(TrainingError) as stopped:
        go(make_job(model, Many(), objective=objective, optimisers=plain_sgd(model, 0.1)), half)
    assert str(stopped.value) == (
        "phase 'main', step 21: the gradient was not finite in 20 steps in a row, however small "
        "its scale in fp16, and none of them was taken; set train.precision=fp32 or lower the "
        "learning rate"
    )
    text = Path("run/metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text  # which are no JSON
    assert [m["gradient_norm"] is None for m in metrics()] == [False] + [True] * 19
