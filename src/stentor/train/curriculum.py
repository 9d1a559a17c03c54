"""Fine-tuning: the phases of a recipe one after the other, then merged, measured and saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from stentor.data import mix
from stentor.data.decisions import with_decisions
from stentor.data.encode import EncodedExample, with_rejected
from stentor.data.files import write_json, write_rows
from stentor.data.mix import Prepared
from stentor.data.stream import Emphasis, ExampleStream
from stentor.errors import CheckpointError, DataError, InputError
from stentor.evaluate import loss as losses
from stentor.evaluate import suites
from stentor.evaluate.probe import ProbeResult, probe, summary
from stentor.generate import Engine
from stentor.model import adapters
from stentor.model.load import LoadedModel, load
from stentor.model.save import save_model
from stentor.model.tokenizer import DECISIONS
from stentor.recipe import PhasePart, Recipe, dump, validation_text
from stentor.report.card import write_all
from stentor.train import checkpoint as checkpoints
from stentor.train import facts
from stentor.train import optimiser as optimisers
from stentor.train.device import Machine, machine
from stentor.train.display import Display
from stentor.train.ema import MovingAverage
from stentor.train.energy import Meter
from stentor.train.lanes import spoken_share
from stentor.train.loop import (
    Evaluation,
    Job,
    Objective,
    Outcome,
    plain_token_loss,
    token_loss,
    train,
)
from stentor.train.preference import preference_loss
from stentor.train.rejected import Drawn, refuses
from stentor.train.rundir import RunDir, open_run
from stentor.train.schedule import factor
from stentor.train.tracking import Tracking, check


def fine_tune(
    recipe: Recipe, out: Path | None, *, resume: bool, track: Sequence[str] = (),
    whole_path: bool = True,
) -> RunDir:  # fmt: skip
    """Run a recipe to its end; the merged model is in the run's `model/`.

    `track`: names of trackers (`stentor.train.tracking.TRACKERS`) that get every step's figures.
    `whole_path` False: the probe is asked at the end alone, whatever the recipe says.
    """
    check(track)
    computer = machine(recipe.train)
    run = computer.agreed(
        lambda: open_run(recipe.name, out, resume=resume, recipe_yaml=dump(recipe))
    )
    with Display(quiet=not computer.is_main) as display:
        if run.finished:
            display.say(f"{run.path}: the run is finished already")
            return run
        display.say(facts.spoken_start(run.path, computer))
        main = computer.is_main
        meter = Meter(run.path, recipe.train, processes=computer.processes, on=main)
        tracking = Tracking(track if main else (), run, recipe.model_dump(mode="json"))
        with meter, tracking:
            work = _Curriculum(recipe, run, computer, display, meter, tracking, whole_path)
            work.work(resume=resume)
    return run


class _Curriculum:
    """The state of one run; its methods are its steps, in their order."""

    def __init__(
        self, recipe: Recipe, run: RunDir, computer: Machine, display: Display, meter: Meter,
        tracking: Tracking, whole_path: bool,
    ) -> None:  # fmt: skip
        self.recipe, self.run, self.machine, self.display = recipe, run, computer, display
        self.meter, self.tracking, self.whole_path = meter, tracking, whole_path

    def work(self, *, resume: bool) -> None:
        recipe = self.recipe
        # first, since one may be missing
        self.suites = [suites.load(name) for name in recipe.probe.suites] if recipe.probe else []
        if resume and not checkpoints.existing(self.run.checkpoints):
            self.run.refuse_other(recipe, _fixed)
        self.base = load(recipe.model.base, template=recipe.model.template, seed=recipe.seed)
        if recipe.data.max_tokens > self.base.window:
            raise InputError(
                f"data.max_tokens: {recipe.data.max_tokens} are more than the {self.base.window} "
                f"tokens that {recipe.model.base} can see; set it to {self.base.window} or less"
            )
        if any(phase.decision for phase in recipe.phases) and not self.base.template.decisions:
            raise InputError(
                f"phases.decision: the tokenizer of {recipe.model.base} has no pieces for it "
                f"({', '.join(DECISIONS)}, as special tokens); remove it, or take a base of ours"
            )
        self.data = mix.prepare(recipe.data, self.base.template, recipe.seed)
        self.course = mix.course(recipe, self.data)
        self.fingerprint = _fingerprint(recipe, self.data, self.base)
        self._say_choices()
        state = checkpoints.newest(self.run.checkpoints, self.fingerprint) if resume else None
        done: list[dict[str, Any]] = state.facts["carried"]["phases"] if state else []
        before = state.facts["carried"].get("base") if state else None
        before = before or self._measured_base()
        self.model = self._trainable()
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.machine.is_main:
            facts.note_start(self.run.path, self.machine)
        if resume and self.machine.is_main:
            self.run.rewind(*((state.phase, state.step) if state else (1, 0)))
            self.run.keep_recipe(recipe)
        if state is not None:
            self.display.say(f"going on with phase {state.phase}, step {state.step + 1}")
        for number, (phase, examples) in enumerate(self.course, start=1):
            if number <= len(done):
                continue
            outcome = self._phase(number, phase, examples, done, before, state)
            known = {"name": phase.name, "number": number, "learning_rate": phase.learning_rate}
            plan = phase.model_dump(mode="json") | ({"mix": {}} if recipe.joined else {})
            done.append(known | {"plan": plan} | asdict(outcome))
            if number < len(self.course):  # the last one's is the probe of the run itself
                done[-1] |= self._probed_phase(phase)
            state = self._close_phase(number, done, before)
        self._finish(done, before)

    def _trainable(self) -> Any:
        """The model as it is trained: with a fresh adapter, or all of it."""
        recipe = self.recipe
        model = self.base.model
        if recipe.adapter is not None:
            name = recipe.model.base
            if name.startswith("preset:"):
                name = self.base.origin  # random weights are named with their seed
            model = adapters.attach(model, recipe.adapter, name, seed=recipe.seed)
        return model.to(self.machine.device)

    def _phase(
        self,
        number: int,
        phase: PhasePart,
        examples: list[EncodedExample],
        done: list[dict[str, Any]],
        before: Mapping[str, Any],
        state: checkpoints.Checkpoint | None,
    ) -> Outcome:
        recipe = self.recipe
        if state is not None and state.step == 0 and state.phase == number:
            _put_back(self.parameters, state)
            state = None
        if phase.preference is not None:
            examples = self._paired(number, phase, examples, begun=state is not None)
        seed, pieces = recipe.seed * 1000 + number, self.base.template.decisions
        if phase.decision is not None:
            examples = with_decisions(
                examples, pieces, share=phase.decision.share, window=self.base.window, seed=seed,
                refuses=refuses,
            )  # fmt: skip
        emphasis = None
        if phase.opening or phase.decision or phase.unlikelihood:
            decision = phase.decision
            counts = dict(zip(pieces, decision.weights(), strict=True)) if decision else {}
            emphasis = Emphasis(
                phase.opening, counts, phase.unlikelihood or 0.0, decision.gain if decision else 0.0
            )
        stream = ExampleStream(
            examples,
            batch=phase.batch,
            micro_batch=phase.micro_batch,
            epochs=phase.epochs,
            seed=seed,
            micro_tokens=self._micro_tokens,
            lanes=self._lanes * self.machine.processes,
            emphasis=emphasis,
            softmax=phase.softmax,
            vocabulary=self.base.model.config.vocab_size,
        )
        built = optimisers.build(
            self.parameters, phase.optimiser, phase.learning_rate, compute=self.machine.compute
        )
        self.display.say(
            f"phase {number} of {len(self.course)}, {phase.name}: {len(examples):,} examples, "
            f"{stream.steps} steps of {phase.batch}, {optimisers.peaks(built)}"
        )
        if recipe.adapter is not None:
            adapters.set_dropout(self.model, phase.dropout)
        job = Job(
            number=number,
            name=phase.name,
            model=self.model,
            parameters=self.parameters,
            stream=stream,
            steps=stream.steps,
            optimisers=built,
            rate=lambda step: factor(step, stream.steps, phase.schedule),
            seed=recipe.seed,
            clip=phase.clip,
            ema=MovingAverage(self.parameters, phase.ema) if phase.ema is not None else None,
            objective=self._objective(phase),
            evaluate=self._evaluation(),
            evaluate_every=phase.evaluate_every,
            keep_best=phase.keep == "best",
            epoch=stream.steps_per_epoch,
            checkpoint_every=recipe.train.checkpoint_every,
            keep_checkpoints=recipe.train.keep_checkpoints,
            fingerprint=self.fingerprint,
            carried={"phases": done, "base": before},
        )
        return train(job, self.machine, self.run, self.display, state)

    def _paired(
        self, number: int, phase: PhasePart, examples: list[EncodedExample], *, begun: bool
    ) -> list[EncodedExample]:
        """The examples of a preference phase, with the replies that are set against theirs."""
        recipe = self.recipe
        if phase.rejected:
            drawn = Drawn(self.run.path / "rejected" / f"phase-{number}.jsonl")
            if self.machine.is_main and not drawn.fits(examples):
                if begun:
                    raise CheckpointError(
                        f"{drawn.path}: the rejected replies that the phase began with are gone; "
                        "start a new run"
                    )
                self.display.say("drawing rejected replies")
                engine = self._engine(self._merged())
                drawn.draw(examples, phase.rejected, engine, seed=recipe.seed)
            examples = self.machine.agreed(lambda: drawn.put(examples))
        examples = with_rejected(
            examples, self.base.template, system=recipe.data.system,
            max_tokens=recipe.data.max_tokens,
        )  # fmt: skip
        pairs = sum(e.rejected is not None for e in examples)
        if not pairs:
            raise DataError(
                f"phase {phase.name!r}: preference is set, but no row of its mix has a rejected "
                "reply; use a source of pairs (preference, coconot, pku_saferlhf), or say with "
                "rejected: where it comes from"
            )
        self.display.say(f"{pairs:,} of {len(examples):,} examples have a rejected reply")
        return examples

    def _merged(self) -> Any:
        """The model as it stands, its adapter merged into a copy."""
        self.model.eval()
        return self.model if self.recipe.adapter is None else adapters.merged_copy(self.model)

    def _engine(self, merged: Any) -> Engine:
        base, settings = self.base, self._generation()
        origin = str(self.run.model)
        return Engine(LoadedModel(merged, base.tokenizer, base.template, origin, settings))

    def _evaluation(self) -> Callable[[int], Evaluation] | None:
        if not any(self.data.held_out.values()):
            return None

        def evaluate(step: int) -> Evaluation:
            found = self._reply_losses(self.model)
            sources = {name: loss.mean for name, loss in found.items() if loss.tokens}
            return Evaluation(losses.total(found.values()).mean, sources)

        return evaluate

    def _close_phase(
        self, number: int, done: list[dict[str, Any]], before: Mapping[str, Any]
    ) -> checkpoints.Checkpoint:
        """Keep the adapter and a checkpoint from which the next phase starts."""
        if self.machine.is_main and self.recipe.adapter is not None:
            template = self.recipe.model.template
            adapters.save(self.model, self.run.adapter(number), template, self._generation())
        carried = {"phases": done, "base": before}
        tensors = {f"weight/{name}": p for name, p in self.parameters.items()}
        state = checkpoints.Checkpoint(number + 1, 0, tensors, {"carried": carried})
        if self.machine.is_main:
            keep = self.recipe.train.keep_checkpoints
            checkpoints.write(self.run.checkpoints, state, self.fingerprint, keep=keep)
            self.meter.flush()
        return state

    def _finish(self, done: list[dict[str, Any]], before: Mapping[str, Any]) -> None:
        if not self.machine.is_main:
            return  # the main process may be writing the checkpoint that is read here
        state = checkpoints.newest(self.run.checkpoints, self.fingerprint)
        if state is not None:
            _put_back(self.parameters, state)
        merged = self._merged()
        if not self.run.model.exists():
            save_model(
                merged, self.base.tokenizer, self.run.model, dtype=torch.float16,
                generation=self._generation(),
            )  # fmt: skip
        self.display.say("measuring")
        result = self._probe(merged, samples=self.recipe.probe.samples if self.recipe.probe else 0)
        report = facts.report(
            self.recipe, self.data, self.base, self.machine, self.parameters, done,
            before=before, after=self._measured(merged),
            probed=result.figures() if result else None, model=self.run.model,
        ) | {"energy": self.meter.figures()}  # fmt: skip
        if result is not None:
            write_rows(self.run.path / "probe.jsonl", [r.line() for r in result.records])
        write_all(self.run.path, report, result.records if result else ())
        self.tracking.report(report)
        write_json(self.run.path / "report.json", report)

    def _reply_losses(self, model: Any) -> dict[str, losses.Loss]:
        decisions = self.base.template.decisions
        return losses.reply_losses(model, self.data.held_out, self.machine, decisions)

    def _measured(self, model: Any) -> dict[str, Any]:
        """A model's losses on the held-out rows and on plain text."""
        model.to(self.machine.device)
        found = self._reply_losses(model)
        return {"evaluation": facts.evaluation(found), "text_loss": self._base_text(model)}

    def _measured_base(self) -> dict[str, Any]:
        """What the base could do before the first phase: losses and, if asked for, the probe."""
        if not self.machine.is_main:
            return {}
        part = self.recipe.probe
        found = self._measured(self.base.model)
        if part is not None and part.base and self.whole_path:
            self.display.say("measuring the base")
            found |= self._summed_up(self.base.model)
        return found

    def _probed_phase(self, phase: PhasePart) -> dict[str, Any]:
        part = self.recipe.probe
        if part is None or not (part.each_phase and self.whole_path and self.machine.is_main):
            return {}
        self.display.say(f"measuring after {phase.name}")
        return self._summed_up(self._merged())

    def _summed_up(self, model: Any) -> dict[str, Any]:
        """The rates of a greedy probe."""
        result = self._probe(model, samples=0)
        return {"probe": summary(result.records)} if result else {}

    def _generation(self) -> dict[str, Any]:
        """The decoding settings of what comes out, and its system prompt."""
        settings = self.recipe.generation
        sampled = {"do_sample": settings.temperature > 0, "system": self.recipe.data.system}
        return settings.model_dump() | sampled

    def _base_text(self, model: Any) -> float | None:
        """The loss on plain text, which fine-tuning should not spoil."""
        if self.recipe.base_text is None:
            return None
        file = validation_text(self.recipe.base_text, self.recipe.data.root)
        texts = losses.read_texts(file)[: self.recipe.base_text_rows]
        return losses.text_loss(model, self.base.tokenizer, texts, self.machine).mean

    def _probe(self, merged: Any, *, samples: int) -> ProbeResult | None:
        if self.recipe.probe is None:
            return None
        engine = self._engine(merged)
        return probe(engine, self.suites, samples=samples, seed=self.recipe.seed)

    def _objective(self, phase: PhasePart) -> Objective:
        if phase.preference is not None:
            return preference_loss(phase.preference)
        return plain_token_loss if self._forward == "plain" else token_loss

    @property
    def _forward(self) -> Literal["lean", "plain"]:
        return "plain" if self.recipe.train.forward == "plain" else "lean"

    @property
    def _lanes(self) -> int:
        return self.machine.lanes if self._forward == "lean" else 1

    @property
    def _micro_tokens(self) -> int | None:
        return self.recipe.train.micro_tokens or self.machine.micro_tokens

    def _say_choices(self) -> None:
        share = spoken_share(self._micro_tokens, self._lanes)
        self.display.say(f"{self._forward} forward, {share}")
        for name, tally in self.data.tallies.items():
            left_out = ", ".join(f"{n} {reason}" for reason, n in tally.left_out.items())
            train, held = len(self.data.train[name]), len(self.data.held_out[name])
            self.display.say(
                f"{name}: {train:,} to train on, {held:,} held out"
                + (f" (left out: {left_out})" if left_out else "")
            )
        for phase in self.recipe.phases:
            for entry, (asked, there) in mix.shortages(phase, self.data).items():
                self.display.say(
                    f"phase {phase.name}: {asked:,} of {entry} asked for, {there:,} there"
                )


def _put_back(parameters: Mapping[str, Tensor], state: checkpoints.Checkpoint) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.tensors[f"weight/{name}"])


def _fixed(recipe: Recipe) -> dict[str, Any]:
    """The fields that a run can't change on its way."""
    free = {"train", "about", "name", "licence", "probe", "generation"}
    free |= {"base_text", "base_text_rows"}
    fixed = recipe.model_dump(mode="json", exclude=free)
    for name in ("root", "hold_out_seed", "kept_apart"):  # the data's hash tells what they chose
        fixed["data"].pop(name)
    if fixed["joined"] is None:  # checkpoints of runs from before these fields fit as well
        fixed.pop("joined")
    for phase in fixed["phases"]:
        for name in ("rejected", "decision", "unlikelihood"):
            if not phase[name]:
                phase.pop(name)
        if phase.get("decision") and not phase["decision"]["gain"]:
            phase["decision"].pop("gain")
    for source in fixed["data"]["sources"].values():
        source.pop("licence")
    return fixed


def _fingerprint(recipe: Recipe, data: Prepared, base: LoadedModel) -> str:
    """Equal for runs whose checkpoints fit each other: recipe, data and base."""
    digest = hashlib.sha256(json.dumps(_fixed(recipe), sort_keys=True).encode())
    digest.update(data.hash().encode())
    for name, tensor in base.model.state_dict().items():
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
