"""Training a preset from scratch: the loop over windows of text."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from stentor.chat import SegmentTemplate
from stentor.data import corpus, softmax
from stentor.data.documents import tokenise
from stentor.data.encode import with_system
from stentor.data.examples import Tally, refuse_bad_rows
from stentor.data.files import write_json
from stentor.errors import CheckpointError, InputError, RecipeError
from stentor.model import tokenizer as tokenizers
from stentor.model.load import load
from stentor.model.presets import WINDOW, preset
from stentor.model.save import save_model
from stentor.recipe import PretrainRecipe, data_root, dump, validation_text
from stentor.train import checkpoint as checkpoints
from stentor.train import optimiser as optimisers
from stentor.train.device import Machine, machine
from stentor.train.display import Display
from stentor.train.energy import Meter
from stentor.train.facts import machines, note_start, spoken_start, versions
from stentor.train.lanes import spoken_share
from stentor.train.loop import Evaluation, Job, Outcome, token_loss, train
from stentor.train.rundir import RunDir, open_run
from stentor.train.schedule import decay_steps, factor
from stentor.train.tracking import Tracking, check


def pretrain(
    recipe: PretrainRecipe, out: Path | None, *, resume: bool, track: Sequence[str] = ()
) -> RunDir:
    """Run a pretraining recipe to its end; the model is in the run's `model/`.

    `track`: names of trackers (`stentor.train.tracking.TRACKERS`) that get every step's figures.
    """
    check(track)
    if problems := disagreements(recipe):
        raise RecipeError(recipe.name, problems)
    computer = machine(recipe.train, varied=False)
    run = computer.agreed(
        lambda: open_run(recipe.name, out, resume=resume, recipe_yaml=dump(recipe))
    )
    with Display(quiet=not computer.is_main) as display:
        if run.finished:
            display.say(f"{run.path}: the run is finished already")
            return run
        display.say(spoken_start(run.path, computer))
        main = computer.is_main
        meter = Meter(run.path, recipe.train, processes=computer.processes, on=main)
        with meter, Tracking(track if main else (), run, recipe.model_dump(mode="json")):
            outcome, facts = _work(recipe, run, computer, display, resume=resume)
            if main:
                facts |= {"energy": meter.figures(), "outcome": vars(outcome)}
                write_json(run.path / "report.json", facts)
    return run


def disagreements(recipe: PretrainRecipe) -> list[str]:
    """Where its lengths leave nothing to learn from, or more than a preset can see."""
    problems = []
    if recipe.window > WINDOW:
        problems.append(
            f"window: {recipe.window:,} is more than the {WINDOW} tokens that a preset can see; "
            "lower it"
        )
    if recipe.batch_tokens % recipe.window:
        problems.append(f"batch_tokens: it must be a multiple of window ({recipe.window})")
    if recipe.tokens < recipe.batch_tokens:
        problems.append(
            f"tokens: {recipe.tokens:,} make no step of {recipe.batch_tokens:,}; raise it, or "
            "lower batch_tokens"
        )
    if recipe.tokens <= recipe.warmup_tokens:
        problems.append(
            f"warmup_tokens: the warm-up of {recipe.warmup_tokens:,} tokens would last to the end "
            f"({recipe.tokens:,}); lower it, or raise tokens"
        )
    if recipe.train.forward == "plain":
        problems.append("train.forward: pretraining has the lean forward alone; leave it out")
    if recipe.train.micro_tokens is not None:
        problems.append(
            "train.micro_tokens: it is for fine-tuning; set micro_tokens of the recipe itself"
        )
    return problems


def fingerprint(recipe: PretrainRecipe) -> str:
    """What must be equal for a checkpoint to fit."""
    return hashlib.sha256(json.dumps(_fixed(recipe), sort_keys=True).encode()).hexdigest()


def _fixed(recipe: PretrainRecipe) -> dict[str, Any]:
    """The fields that a run can't change on its way: all but the end, the machine, the branch, and
    how much of the softmax is taken (a way to save work, like the machine's precision)."""
    free = {"tokens", "train", "start", "about", "name", "softmax"}
    free |= {"micro_tokens", "evaluate_every", "evaluate_windows"}
    fixed = recipe.model_dump(mode="json", exclude=free)
    fixed["schedule"].pop("decay")
    for part in fixed["data"]["corpora"].values():  # older checkpoints don't know the field
        if part["revision"] is None:
            part.pop("revision")
    for name in ("root", *_OF_THE_DECAY):
        fixed["data"].pop(name)
    return fixed


_OF_THE_DECAY = ("dialogues", "dialogue_share", "dialogue_system")
"""Fields of `data` that matter in the decay alone: free before it, fixed once it has begun."""


def _decay_fingerprint(recipe: PretrainRecipe) -> str:
    said = recipe.data.model_dump(mode="json", include={*_OF_THE_DECAY})
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _work(
    recipe: PretrainRecipe, run: RunDir, computer: Machine, display: Display, *, resume: bool
) -> tuple[Outcome, dict[str, Any]]:
    tokenizer = tokenizers.bundled()
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(preset(recipe.preset).config())
    initialise(model, recipe)
    model.to(computer.device)
    documents = corpus.gather(recipe, tokenizer)
    windows = corpus.pack(documents, recipe.window, recipe.seed)
    steps = recipe.tokens // recipe.batch_tokens
    validation = _validation(recipe, tokenizer)
    held_out = () if validation is None else validation.stream
    pieces = softmax.choose(recipe.softmax, windows.stream, model.config.vocab_size, held_out)
    decay_from = steps - decay_steps(steps, recipe.schedule)
    whole_from = softmax.whole_from(recipe.softmax, steps)
    stream = corpus.PretrainStream(
        windows,
        batch=recipe.batch_tokens // recipe.window,
        micro=max(1, recipe.micro_tokens // recipe.window),
        seed=recipe.seed,
        decay_from=decay_from,
        dialogues=_dialogues(recipe, tokenizer),
        dialogue_share=recipe.data.dialogue_share,
        pieces=pieces,
        whole_from=whole_from,
    )
    display.say(
        f"{len(windows.stream):,} tokens in {len(windows):,} windows; {steps:,} steps of "
        f"{recipe.batch_tokens:,} tokens, decay from step {decay_from:,}"
    )
    display.say(f"lean forward, {spoken_share(recipe.micro_tokens, computer.lanes)}")
    carried = {
        "decay_from": decay_from,
        "decay": _decay_fingerprint(recipe),
        "corpus": hashlib.sha256(windows.stream.data).hexdigest(),
    }
    state = _start(recipe, run, carried, resume=resume)
    if computer.is_main:
        note_start(run.path, computer)
    if resume and computer.is_main:
        run.rewind(1, state.step if state else 0)
        run.keep_recipe(recipe)
    if state is not None:
        display.say(f"going on from step {state.step:,}")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    warmup = recipe.warmup_tokens // recipe.batch_tokens
    job = Job(
        number=1,
        name="pretrain",
        model=model,
        parameters=parameters,
        stream=stream,
        steps=steps,
        optimisers=optimisers.build(
            parameters, recipe.optimiser, recipe.learning_rate, compute=computer.compute
        ),
        rate=lambda step: factor(step, steps, recipe.schedule, warmup_steps=warmup),
        seed=recipe.seed,
        clip=recipe.clip,
        evaluate=_evaluation(recipe, model, validation, computer, pieces, whole_from),
        evaluate_every=recipe.evaluate_every,
        keep_best=False,
        checkpoint_every=recipe.train.checkpoint_every,
        keep_checkpoints=recipe.train.keep_checkpoints,
        fingerprint=fingerprint(recipe),
        carried=carried,
    )
    outcome = train(job, computer, run, display, state)
    model.eval()
    if computer.is_main and not run.model.exists():  # it does when a kill came just after
        save_model(model, tokenizer, run.model, dtype=torch.float16)
    facts = {
        "schema": 1,
        "kind": "pretrain",
        "machine": computer.describe(),
        "machines": machines(run.path),
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus_tokens": len(windows.stream),
        "tokens_seen": steps * recipe.batch_tokens,
    }
    return outcome, facts


def _start(
    recipe: PretrainRecipe, run: RunDir, carried: Mapping[str, Any], *, resume: bool
) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from: this run's own, or the one that it branches from.

    `carried`: what this run's checkpoints are to remember; older ones remember less.
    """
    own = checkpoints.newest(run.checkpoints, fingerprint(recipe)) if resume else None
    if own is not None:
        _same_corpus(own, carried, run.path)
        _same_decay(own, carried, run.path)
        return own
    if resume:
        run.refuse_other(recipe, _fixed)
    if recipe.start is None:
        return None
    place = Path(recipe.start).expanduser()
    place = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    found = [place] if (place / "state.json").exists() else checkpoints.existing(place)
    if not found:
        raise CheckpointError(f"{recipe.start}: there is no checkpoint to start from")
    for checkpoint in reversed(found):  # the newest that the decay has not touched
        state = checkpoints.read(checkpoint, fingerprint(recipe))
        _same_corpus(state, carried, checkpoint)
        theirs = state.facts["carried"].get("decay_from", carried["decay_from"])
        if state.step <= min(theirs, carried["decay_from"]):
            return state
    stands = f"start: the earliest checkpoint stands at step {state.step:,}, after the decay"
    if state.step > theirs:
        raise InputError(
            f"{stands} of its own run began ({theirs:,}); give an earlier one, or let that run "
            "keep more of them (train.keep_checkpoints)"
        )
    raise InputError(
        f"{stands} is to begin ({carried['decay_from']:,}); raise tokens, or keep more checkpoints "
        "(train.keep_checkpoints)"
    )


def _same_corpus(state: checkpoints.Checkpoint, carried: Mapping[str, Any], place: Path) -> None:
    """CheckpointError where the text that the checkpoint was trained on is not that of today."""
    now = carried["corpus"]
    if state.facts["carried"].get("corpus", now) != now:
        raise CheckpointError(
            f"{place}: it was trained on another corpus: the text of data.corpora has changed "
            "since; go on with the text that it was begun with, or start a new run"
        )


def _same_decay(state: checkpoints.Checkpoint, carried: Mapping[str, Any], place: Path) -> None:
    """InputError where a decay that has begun, or would have, is not the one of the recipe."""
    theirs = {name: state.facts["carried"].get(name, carried[name]) for name in carried}
    moved = theirs["decay_from"] != carried["decay_from"]
    if state.step > min(theirs["decay_from"], carried["decay_from"]) and moved:
        raise InputError(
            f"{place}: it stands at step {state.step:,}; its decay was to begin at step "
            f"{theirs['decay_from']:,} and would now begin at step {carried['decay_from']:,}, and "
            "no step can be taken back; resume with tokens and schedule.decay as they were, or "
            "begin another run from a checkpoint before the decay (--set start=RUN)"
        )
    if state.step > theirs["decay_from"] and theirs["decay"] != carried["decay"]:
        raise InputError(
            f"{place}: its decay has begun with other dialogues; resume with "
            f"{', '.join(f'data.{name}' for name in _OF_THE_DECAY)} as they were, or begin another "
            "run from a checkpoint before the decay (--set start=RUN)"
        )


def _dialogues(recipe: PretrainRecipe, tokenizer: Any) -> corpus.Windows | None:
    if not recipe.data.dialogues:
        return None
    from stentor.data.sources import examples

    root, tally = data_root(recipe.data.root), Tally()
    found = [
        e for part in recipe.data.dialogues for e in examples(part, root, tally, seed=recipe.seed)
    ]
    refuse_bad_rows(tally.problems)
    conversations = [
        with_system(e.messages, recipe.data.dialogue_system if number % 2 else None)
        for number, e in enumerate(found)
    ]
    return corpus.dialogue_windows(
        conversations, SegmentTemplate(tokenizer), recipe.window, recipe.seed
    )


def _validation(recipe: PretrainRecipe, tokenizer: Any) -> corpus.Windows | None:
    if recipe.data.validation is None:
        return None
    shard = validation_text(recipe.data.validation, recipe.data.root)
    return corpus.windows_of(tokenise(shard, tokenizer), recipe.window)


def _evaluation(
    recipe: PretrainRecipe,
    model: Any,
    validation: corpus.Windows | None,
    computer: Machine,
    pieces: softmax.Pieces | None,
    whole_from: int,
) -> Callable[[int], Evaluation] | None:
    """Mean loss over the first validation windows, over all of `pieces` before `whole_from`."""
    if validation is None:
        return None
    count = min(recipe.evaluate_windows, len(validation))

    @torch.no_grad()
    def evaluate(step: int) -> Evaluation:
        taken = pieces if step < whole_from else None
        total, tokens = 0.0, 0
        for number in range(count):
            part = corpus.window_micro([(validation, number)])
            if taken is not None:
                [part] = softmax.narrowed([part], taken)
            part = part.to(computer.device)
            with computer.autocast():
                loss, _ = token_loss(model, part)
            total += float(loss)
            tokens += part.supervised
        return Evaluation(total / tokens)

    return evaluate


def initialise(model: Any, recipe: PretrainRecipe) -> None:
    """Replace the random weights, or the embedding alone, by those that the recipe names."""
    if recipe.weights is not None:
        _take_over(model, recipe.weights)
    elif recipe.embedding is not None:
        from stentor.model.inherit import inherited_embedding

        width = model.config.hidden_size
        weight = inherited_embedding(recipe.embedding, tokenizers.bundled(), width)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(weight)


def _take_over(model: Any, name: str) -> None:
    found = load(name).model
    theirs, ours = (
        {key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (found, model)
    )
    if theirs != ours:
        differing = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
        raise InputError(
            f"weights: {name} has another shape than the preset ({', '.join(differing[:3])}"
            f"{', …' if len(differing) > 3 else ''}); choose the preset that it was made by"
        )
    model.load_state_dict(found.state_dict())
