"""Recipes: what to do, as data. One YAML file per run that anyone may want to repeat.

`Recipe` describes fine-tuning (`stentor train`), `PretrainRecipe` training from scratch
(`stentor pretrain`). Both are frozen and reject unknown fields; `load` reports every mistake of
a file at once, each with its path and the nearest valid name.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stentor import assets
from stentor.errors import InputError, RecipeError, nearest
from stentor.overrides import apply, drop_removed, read
from stentor.yaml_file import read_mapping

CARD_SYSTEM = """You are a helpful assistant. Follow these rules:
1) Never provide instructions that facilitate self-harm, suicide, explicit sexual content, or \
harassment, hate, or bullying.
2) For self-harm intent, respond with empathy, encourage immediate support, and suggest local \
emergency services. If the user is in the US, mention 988.
3) Assume positive intent unless explicit red flags appear.
4) When refusing, briefly acknowledge the user's underlying need if it can be addressed safely, \
then redirect.
5) For benign educational requests, answer clearly and avoid over-refusal."""
"""The public card's system prompt, 131 tokens in the bundled vocabulary."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of all parts of a recipe."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelPart(Part):
    """Where the run starts."""

    base: str = "stentor-12m"
    """A bundled name, a folder, a hub id, a GGUF file, or `preset:NAME` for random weights."""
    template: Literal["auto", "stentor", "own"] = "auto"
    """`auto`: ours where the tokenizer holds its pieces, else the model's own."""


Projection = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]  # fmt: skip
"""The matrices of a Llama block; embedding and head stay as they are under an adapter."""


class AdapterPart(Part):
    """A LoRA adapter, trained through PEFT."""

    rank: Positive = 32
    """Width r of the two matrices A (r, in) and B (out, r) beside each weight."""
    alpha: Positive = 32
    """The adapter counts alpha / rank times (rslora: alpha / sqrt(rank))."""
    rslora: bool = True
    """Scale by alpha / sqrt(rank) instead of alpha / rank (rank-stabilised LoRA)."""
    targets: Annotated[tuple[Projection, ...], Field(min_length=1)] = typing.get_args(Projection)
    """The projections that get an adapter."""


Reader = Literal[
    "bundled",
    "seed_safety",
    "stop_calibration",
    "chat",
    "instruction",
    "preference",
    "transcript",
    "text",
    "dolly",
    "beavertails",
    "falsereject",
    "coconot",
    "safety_tuned_llamas",
    "pku_saferlhf",
]
"""The modules of `stentor.data.sources`."""


class SourcePart(Part):
    """One source of rows."""

    use: Reader
    """Which module of `stentor.data.sources` maps the rows."""
    path: str | None = None
    """A local file (JSON lines, .gz, .zst, CSV, Parquet) or a glob, relative to `data.root`."""
    hub: str | None = None
    """A data set on the hub, read through the package `datasets`."""
    config: str | None = None
    """hub: which configuration of the data set; null: its default."""
    split: str = "train"
    """hub: which split of it."""
    kinds: tuple[str, ...] = ()
    """Keep rows of these kinds only (empty: all)."""
    cap: Positive | None = None
    """At most this many rows, drawn with the recipe's seed."""
    licence: str | None = None
    """What the rows may be used for, in the hub's names (`cc-by-4.0`); else the reader's own."""

    @model_validator(mode="after")
    def _one_place(self) -> SourcePart:
        if self.path and self.hub:
            raise ValueError("give either path or hub, not both")
        return self


class DataPart(Part):
    """The sources by name, and how rows become examples."""

    root: str | None = None
    """The folder that relative paths start from; else the environment's STENTOR_DATA."""
    system: str | None = CARD_SYSTEM
    """The system prompt of every example; null for none."""
    max_tokens: Positive = 384
    """Longer examples are cut after a sentence of their reply, or left out."""
    hold_out: Fraction = 0.03
    """The share of prompts of each source kept for evaluation …"""
    hold_out_at_least: int = Field(20, ge=0)
    """… but at least so many, where the source has twice as many."""
    hold_out_seed: Seed | None = None
    """Draws them, and what `cap` leaves of a source; null: the run's seed. Fixed, runs of several
    seeds read and hold out the same rows."""
    kept_apart: tuple[str, ...] = ("probe-35", "probe-500")
    """Suites, by name or file: no prompt of theirs is trained on, nor one that shares 70 % of its
    words with one of them."""
    sources: Annotated[dict[str, SourcePart], Field(min_length=1)]
    """Name → source; the mixes of the phases go by these names."""


class OptimiserPart(Part):
    """AdamW, or Muon for the hidden matrices with AdamW for the rest."""

    name: Literal["adamw", "paged_adamw", "muon"] = "adamw"
    """`paged_adamw` takes bitsandbytes' 32-bit paged AdamW on a GPU, else plain AdamW."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the means of gradients and of their squares."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the mean square."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled; not on vectors."""
    muon_rate: Rate = 0.02
    """Muon's learning rate, for the hidden matrices; an adapter has no others."""
    muon_momentum: Decay = 0.95
    """Decay of Muon's mean of gradients."""


class SchedulePart(Part):
    """How the learning rate moves over a phase: warm-up, then the named shape."""

    shape: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """How the rate goes after its warm-up; wsd stays and falls at the end."""
    warmup: Fraction = 0.06
    """Share of the steps over which the rate rises from zero."""
    cycles: Positive = 1
    """cosine: `num_cycles` of transformers' cosine with hard restarts."""
    decay: Fraction = 0.2
    """wsd: share of the steps, at the end, over which the rate falls to zero."""


class SoftmaxPart(Part):
    """Over which pieces the softmax is taken, until all of them take part at the end."""

    seen_only: bool = True
    """Only those that the corpus, or the replies of the phase, hold."""
    frequent: Positive | None = None
    """Of these only the commonest so many, those that are due, and a sample of the others that
    stands for them all; None: all of them. The head is most of a tiny model's work."""
    sampled: Positive = 1024
    """How many of the others are drawn for each micro-batch."""
    whole: Fraction = 0.1
    """The share of the steps, at the end, in which all pieces of the vocabulary take part, so that
    those that never occur are pushed down."""


class OpeningPart(Part):
    """The first tokens of a reply, by which a model decides between answer and refusal, count more.

    They are a few of many, so the plain loss hardly tells this choice (Qi et al. 2024, "Safety
    alignment should be made more than just a few tokens deep", show that it is made there).
    """

    tokens: Positive = 4
    """How many."""
    weight: Annotated[float, Field(gt=0)] = 4.0
    """How often each counts in the loss that is learned from; reported losses are plain."""


class DecisionPart(Part):
    """A control piece before the last reply says what it is, and the model learns to draw it first.

    A refusal for rows of the kind `harmful`, support for those of them of the category
    `self_harm`, an answer for all others but plain documents. Greedy replies then follow what the
    model holds likelier as a whole, and not the likeliest first word ("Refusal tokens", Jain et
    al. 2024). Readers of text don't see the piece.
    """

    weight: Annotated[float, Field(gt=0)] = 8.0
    """How often the piece counts in the loss that is learned from; reported losses are plain."""
    refusals: Annotated[float, Field(gt=0)] = 1.0
    """How much more those of refusal and support count than those of answers: above 1 the model
    refuses more of what is harmful, and of what is not."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of the rows, how many get it; the others teach how a reply begins without. `weight` counts
    against them: at 8 and 0.9 the words are left 1 % of the probability at the first place.
    Held-out losses sum over the pieces and none, so they are those of what readers see."""

    gain: Annotated[float, Field(ge=0)] = 0.0
    """How much it counts, as a share of `weight`, that the piece is guessed at each token of the
    last prompt, ever more towards its end ("linear gain", Dai & Le 2015): more to learn the choice
    from, since a prompt has one end and many tokens."""

    def weights(self) -> tuple[float, float, float]:
        """How often the pieces of refusal, support and answer count."""
        return (self.weight * self.refusals, self.weight * self.refusals, self.weight)


class PhasePart(Part):
    """One phase of the curriculum: which examples, how often, how fast."""

    name: str
    """Shown in reports, and names the phase in `--set phases.NAME.…`."""
    mix: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Source → count of examples (≥ 1), or weight (all below 1) of `examples`.

    `SOURCE:KIND` takes the source's rows of that kind only; `SOURCE:contrast` harmful rows with
    the look-alikes whose words are nearest to theirs, in pairs, the nearest first.
    """
    examples: Positive | None = None
    """The size of a mix given by weights; a cap for a mix given by counts."""
    epochs: Positive = 1
    """How often each example is seen."""
    learning_rate: Rate = 3e-5
    """The peak of the schedule; not of what Muon trains, which is all of an adapter
    (optimiser.muon_rate)."""
    batch: Positive = 8
    """Examples in one optimiser step."""
    micro_batch: Positive = 48
    """At most this many examples in one forward pass."""
    dropout: Fraction = 0.0
    """Dropout inside the adapter."""
    optimiser: OptimiserPart = OptimiserPart()
    """What takes the steps; each phase begins with fresh states."""
    schedule: SchedulePart = SchedulePart()
    """How the learning rate moves over the phase."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    softmax: SoftmaxPart | None = None
    """Over which pieces it is taken, to save work; null: over the whole vocabulary."""
    opening: OpeningPart | None = None
    """Whether the first tokens of each reply count more; null: all count alike."""
    decision: DecisionPart | None = None
    """Whether replies begin with a piece that says what they are; null: with their words."""
    unlikelihood: Annotated[float, Field(gt=0)] | None = None
    """How much it counts that a reply's next piece is none of the 32 that it held last, so that it
    does not go in circles (unlikelihood training, Welleck et al. 2020); null: not at all."""
    ema: Fraction | None = None
    """Decay of the moving average of the weights: min(ema, (1 + t) / (10 + t))."""
    evaluate_every: Positive | None = None
    """Steps between evaluations, besides that at each epoch's end. None: at these alone."""
    keep: Literal["best", "last"] = "best"
    """Which weights are carried on: of the evaluation with the lowest loss, or of the last (its
    moving average where there is `ema`). What a tiny model says and refuses goes on improving
    after its held-out loss has begun to rise."""
    preference: Annotated[float, Field(gt=0)] | None = None
    """Weight of the odds of the chosen reply against the rejected one (ORPO); None: not looked at.

    Rows without a rejected reply take part with the plain loss.
    """
    rejected: tuple[Literal["own", "opposite", "silence"], ...] = ()
    """preference: where rows without a rejected reply get one, the first of these that can say.

    `own`: what the model itself replies as the phase begins, where the judge finds it wrong;
    `opposite`: another row's reply, of the same category if there is: a refusal for prompts to be
    answered, the answer to a look-alike for those to be refused; `silence`: no words at all.
    """


class TrainPart(Part):
    """How a run uses the machine; none of it changes which examples are learned, and how often.

    The bits of a run repeat on a CPU with the same device, precision, threads and micro_tokens:
    these decide how results are rounded, how a step is split and which numbers dropout draws.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes CUDA, then Apple MPS, then the CPU."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the matrix products; auto takes bf16 on GPUs from Ampere on and on processors with AMX
    (for pretraining on AMD's with `avx512_bf16` too), fp16 on older GPUs, else fp32."""
    checkpoint_every: Positive = 50
    """Steps between checkpoints …"""
    keep_checkpoints: Positive = 2
    """… of which so many are kept, the newest."""
    threads: Positive | None = None
    """Of the CPU; null: all cores."""
    forward: Literal["auto", "lean", "plain"] = "auto"
    """`plain` is the forward of transformers itself, padded, with all logits: the reference that
    `lean` (what `auto` takes) is measured against, several times as slow, and not for preference
    phases."""
    micro_tokens: Positive | None = None
    """At most so many tokens in a micro-batch of fine-tuning; None: 2,048 on a CPU, where more
    leave the cache, and no limit on a GPU."""
    energy: bool = True
    """Meter the run's energy, where the extra `energy` (codecarbon) is installed."""
    region: str | None = None
    """Where the power comes from, for CO2e: a country's three-letter code (ISO 3166), or
    `USA/california`, `CAN/quebec`."""
    cpu_watts: Annotated[float, Field(gt=0)] | None = None
    """The processor's power at full load, where neither a sensor nor codecarbon's tables tell."""


class ProbePart(Part):
    """The probe at the end of a run."""

    suites: tuple[str, ...] = ("probe-35",)
    """Prompt sets: `probe-35`, `probe-500`, or files."""
    samples: int = Field(0, ge=0)
    """Sampled replies to each prompt beside the greedy one, at the end of the run."""
    base: bool = True
    """Ask the base the same prompts before the first phase, greedily."""
    each_phase: bool = True
    """Ask them after each phase too, greedily; the points of the plot of refusals are the base and
    the ends of the phases."""


class GenerationPart(Part):
    """Default decoding, saved with the model (the public card's quick start)."""

    temperature: Annotated[float, Field(ge=0)] = 1.1
    """0 decodes greedily; else at least 0.001."""
    top_p: Rate = 0.6
    """Only the likeliest tokens that make up this probability are drawn from."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.3
    """Logits of tokens that occurred already are divided by it (multiplied where negative);
    from 0.01 to 100."""
    max_new_tokens: Positive = 80
    """A reply is cut there."""

    @model_validator(mode="after")
    def _decodes(self) -> GenerationPart:
        from stentor.generate.sampling import Decoding

        try:
            Decoding(**self.model_dump())
        except InputError as error:
            raise ValueError(str(error)) from None
        return self


class Recipe(Part):
    """A fine-tuning run: `stentor train`."""

    name: str
    """What the model is called, and its folder in `runs/`; not given: the name of the file."""
    about: str = ""
    """A sentence or two for the report and the card."""
    licence: str | None = None
    """The licence of what comes out, in the hub's names; else the strictest of data and base."""
    seed: Seed = 1
    """Decides split, order and dropout; the same seed gives the same run."""
    model: ModelPart = ModelPart()
    """Where the run starts: the base and its chat template."""
    adapter: AdapterPart | None = AdapterPart()
    """null trains all weights."""
    data: DataPart
    """The sources, and how their rows become examples."""
    phases: Annotated[tuple[PhasePart, ...], Field(min_length=1)]
    """The curriculum: one phase after the other, each from what the last one carried on."""
    joined: str | None = None
    """A phase's name: the examples of all phases are shuffled into one phase with the settings of
    this one, each example as often as its phase would see it."""
    probe: ProbePart | None = ProbePart()
    """By which prompts the model is measured; null: by none."""
    # a factory: the check of its values imports the engine, which reading this module need not
    generation: GenerationPart = Field(default_factory=GenerationPart)
    """How the model decodes where nobody says otherwise."""
    base_text: str | None = None
    """A text file (`text` rows) on which the loss is taken before and after all phases; `bundled`
    is the one that ships with the package …"""
    base_text_rows: Positive = 60
    """… as many of its first rows as this."""
    train: TrainPart = TrainPart()
    """How the run uses the machine."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if problems := disagreements(self.model_dump()):
            raise ValueError("\n".join(problems))
        return self


def disagreements(recipe: Mapping[str, Any]) -> list[str]:
    """Where the parts of a fine-tuning recipe don't fit each other, as far as they can be read."""
    sources = _mapping(_mapping(recipe.get("data")).get("sources"))
    entries = recipe.get("phases")
    phases = [_mapping(p) for p in entries] if isinstance(entries, list | tuple) else []
    plain = _mapping(recipe.get("train")).get("forward") == "plain"
    problems = []
    for number, phase in enumerate(phases):
        mix = _mapping(phase.get("mix"))
        for source in [str(entry).partition(":")[0] for entry in mix if sources]:
            if source not in sources:
                hint = nearest(source, sources)
                problems.append(f"phases.{number}.mix: no source is called {source!r}{hint}")
        weights = [v < 1 for v in mix.values() if isinstance(v, int | float) and v > 0]
        if any(weights) and not all(weights):
            problems.append(f"phases.{number}.mix: counts (>= 1) and weights (< 1) are mixed")
        elif any(weights) and phase.get("examples") is None:
            problems.append(f"phases.{number}.examples: a mix by weights needs it")
        if phase.get("rejected") and phase.get("preference") is None:
            problems.append(
                f"phases.{number}.rejected: it needs preference, the weight of the odds"
            )
        problems += [
            f"phases.{number}.{name}: there is no plain forward of it; set train.forward to auto"
            for name in ("preference", "unlikelihood")
            if phase.get(name) is not None and plain
        ]
        if phase.get("preference") is not None and phase.get("opening") is not None:
            problems.append(f"phases.{number}.opening: odds are those of whole replies; remove it")
        decision = _mapping(phase.get("decision"))
        if phase.get("preference") is not None and decision.get("gain"):
            problems.append(
                f"phases.{number}.decision.gain: a phase of pairs has no place for it; remove it"
            )
        has_adapter = recipe.get("adapter", ...) is not None
        if phase.get("dropout") and not has_adapter:
            problems.append(f"phases.{number}.dropout: there is no adapter to drop out from")
        if phase.get("decision") is not None and has_adapter:
            problems.append(
                f"phases.{number}.decision: an adapter leaves the embedding of its pieces as it "
                "is; set adapter: null"
            )
    names = [name for phase in phases if isinstance(name := phase.get("name"), str)]
    twice = dict.fromkeys(n for n in names if names.count(n) > 1)
    problems += [f"phases: the name {n!r} occurs twice" for n in twice]
    joined = recipe.get("joined")
    if isinstance(joined, str) and phases and joined not in names:
        problems.append(f"joined: no phase is called {joined!r}{nearest(joined, names)}")
    return problems


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


class CorpusPart(Part):
    """A set of text documents to pretrain on."""

    path: str | None = None
    """Local shards (JSON lines with `text`; .gz or .zst), a glob relative to `data.root`."""
    hub: str | None = None
    """A data set on the hub instead, streamed into the cache through the package `datasets`."""
    config: str | None = None
    """hub: which configuration of the data set; null: its default."""
    split: str = "train"
    """hub: which split of it."""
    text: str = "text"
    """hub: the field that holds the text."""
    tokens: Positive | None = None
    """hub: stream documents until this many tokens are there, or the set ends."""
    revision: str | None = None
    """hub: the commit, tag or branch to read; null: the newest when it is fetched."""
    epochs: dict[str, Annotated[float, Field(ge=0)]] = {}
    """How often each `source` field's documents are seen; others once."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often the whole corpus is seen in one pass."""


class PretrainDataPart(Part):
    """What a base model reads."""

    root: str | None = None
    """The folder that relative paths start from; else the environment's STENTOR_DATA."""
    corpora: Annotated[dict[str, CorpusPart], Field(min_length=1)]
    """Name → set of documents; all of them are read."""
    validation: str | None = None
    """Held-out shard for the evaluation loss, relative to `root`; `bundled` is the text that ships
    with the package (51 excerpts)."""
    dialogues: tuple[SourcePart, ...] = ()
    """Conversations, put in the chat template, that the decay mixes in …"""
    dialogue_share: Fraction = 0.05
    """… as this share of the windows of the decay."""
    dialogue_system: str | None = CARD_SYSTEM
    """Stands before every second conversation, so that its delimiters are learned too."""


class PretrainOptimiserPart(OptimiserPart):
    """The same fields with what pretraining starts from."""

    name: Literal["adamw", "paged_adamw", "muon"] = "muon"
    betas: tuple[Decay, Decay] = (0.9, 0.95)


class PretrainSchedulePart(SchedulePart):
    """The same fields with what pretraining starts from."""

    shape: Literal["constant", "cosine", "linear", "wsd"] = "wsd"
    warmup: Fraction = 0.0


class PretrainRecipe(Part):
    """Training a preset from scratch: `stentor pretrain`."""

    name: str
    """What the model is called, and its folder in `runs/`; not given: the name of the file."""
    about: str = ""
    """A sentence or two for the report."""
    seed: Seed = 1
    """Decides the first weights and the order of the text; the same seed gives the same run."""
    preset: str = "stentor-12m"
    """The shape of the model: stentor-2m, stentor-6m, stentor-12m or stentor-30m."""
    start: str | None = None
    """A run or checkpoint to branch from (its step, weights and optimiser are taken over)."""
    weights: str | None = None
    """A model of this preset to go on from: its weights are taken over, nothing else."""
    embedding: str | None = None
    """A model whose embedding the random one is replaced by, mapped piece by piece."""
    data: PretrainDataPart
    """The text: corpora, validation and dialogues."""
    window: Positive = 512
    """Tokens of a training window; documents never see each other in it."""
    batch_tokens: Positive = 4096
    """Tokens of one optimiser step; a multiple of window."""
    micro_tokens: Positive = 1024
    """Tokens in one forward pass."""
    tokens: Positive
    """Tokens seen in all; where it is more than one pass, the windows come again, reshuffled."""
    learning_rate: Rate = 3e-3
    """AdamW's rate for the embedding and the norms."""
    optimiser: PretrainOptimiserPart = PretrainOptimiserPart()
    """What takes the steps."""
    schedule: PretrainSchedulePart = PretrainSchedulePart()
    """How the learning rate moves over the run."""
    warmup_tokens: int = Field(400_000, ge=0)
    """An absolute warm-up, so that the steps before the decay don't depend on the end."""
    softmax: SoftmaxPart = SoftmaxPart()
    """Over which pieces it is taken, to save work."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    evaluate_every: Positive = 500
    """Steps between losses on the validation text …"""
    evaluate_windows: Positive = 64
    """… over its first so many windows."""
    train: TrainPart = TrainPart()
    """How the run uses the machine."""


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe | PretrainRecipe)


def bundled_recipes() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    installed = Path(__file__).parent / "recipes"
    checkout = Path(__file__).parents[2] / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.yaml")}


def find(name_or_path: str) -> Path:
    """The file of a recipe given by path or by name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = bundled_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise InputError(
        f"no recipe {name_or_path!r}: it is neither a file nor the name of a shipped recipe"
        + nearest(name_or_path, shipped)
    )


def load(name_or_path: str, kind: type[AnyRecipe], overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe, apply `a.b=c` overrides, check all of it."""
    path = find(name_or_path)
    raw = read_mapping(path)
    if "cells" in raw:
        raise RecipeError(str(path), [f"it is a sweep; run it with stentor sweep {name_or_path}"])
    raw.setdefault("name", path.stem)
    problems = []
    for text in overrides:
        try:
            apply(raw, *read(text))
        except ValueError as problem:
            problems.append(f"{text!r}{problem}")
    if problems:
        raise RecipeError("--set", problems)
    drop_removed(raw)
    return parse(raw, kind, str(path))


def parse(raw: dict[str, Any], kind: type[AnyRecipe], where: str) -> AnyRecipe:
    """Validate a recipe's mapping; RecipeError lists every mistake."""
    try:
        return typing.cast(AnyRecipe, kind.model_validate(raw))
    except ValidationError as error:
        problems: list[str] = []
        for item in error.errors():
            if item["type"] != "too_short" or not item["input"]:  # else its entries are wrong
                problems += explain(kind, item)
        if issubclass(kind, Recipe):  # pydantic checks the whole only when all fields are right
            problems += [p for p in disagreements(raw) if p not in problems]
        raise RecipeError(where, problems) from None


def dump(recipe: Recipe | PretrainRecipe) -> str:
    """The resolved recipe as YAML; loading it again gives an equal recipe."""
    data = recipe.model_dump(mode="json")
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def data_root(given: str | None) -> Path:
    """The folder that a recipe's relative data paths start from."""
    return Path(given or os.environ.get("STENTOR_DATA") or ".").expanduser()


def validation_text(name: str, root: str | None) -> Path:
    """The file of plain text to measure on: `bundled`, or a path that starts from `root`."""
    if name == "bundled":
        return assets.path("data", "base_text_valid.jsonl.gz")
    return data_root(root) / Path(name).expanduser()


def explain(kind: type[BaseModel], item: Any) -> list[str]:
    """The lines for one of pydantic's errors."""
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, item["loc"][:-1])
        return [f"{path}: there is no such field{nearest(str(item['loc'][-1]), known)}"]
    if item["type"] == "missing":
        return [f"{path}: it is missing"]
    if item["type"] == "value_error":
        lines = str(item["ctx"]["error"]).split("\n")
        return [f"{path}: {line}" if path else line for line in lines]
    message = item["msg"][0].lower() + item["msg"][1:]
    shown = repr(item["input"])
    hint = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        choices = [c.strip(" '") for c in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = nearest(item["input"], choices)
    return [f"{path}: {message}, not {shown[:60]}{hint}"]


def _fields_at(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the fields of the part that `loc` leads to."""
    current: Any = kind
    for step in loc:
        if typing.get_origin(current) in (tuple, dict):  # the step says which of its entries
            current = _part_among(typing.get_args(current))
        elif _is_part(current):
            field = current.model_fields.get(str(step))
            current = field.annotation if field else None
        if typing.get_origin(current) in (typing.Union, types.UnionType):
            current = _part_among(typing.get_args(current))
    return list(current.model_fields) if _is_part(current) else []


def _part_among(annotations: Iterable[Any]) -> Any:
    return next(filter(_is_part, annotations), None)


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
