"""From sources to the examples of each phase: duplicates, held-out prompts, counts.

The held-out part is split by prompt: a prompt that is held out appears in no phase, in no
source, and in no turn of a conversation that is trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from stentor.chat import Template
from stentor.data import sources
from stentor.data.contrast import contrast_pairs
from stentor.data.encode import EncodedExample, encode
from stentor.data.examples import Example, Tally, refuse_bad_rows
from stentor.data.near import Prompts
from stentor.errors import DataError
from stentor.evaluate import suites
from stentor.recipe import DataPart, PhasePart, Recipe, data_root

CONTRAST = ":contrast"
"""Ends an entry of a mix that takes harmful rows with their nearest look-alikes."""


@dataclass(frozen=True)
class Prepared:
    """The encoded examples of every source, split in two."""

    train: dict[str, list[EncodedExample]]
    held_out: dict[str, list[EncodedExample]]
    tallies: dict[str, Tally]

    def hash(self) -> str:
        """A hash of all training and held-out examples: equal data, equal hash."""
        digest = hashlib.sha256()
        for side in (self.train, self.held_out):
            for name in sorted(side):
                digest.update(content_hash(side[name]).encode())
        return digest.hexdigest()


def content_hash(examples: list[EncodedExample]) -> str:
    """A hash of examples in order: tokens, masks, kinds (mixes name them), rejected replies."""
    digest = hashlib.sha256()
    for e in examples:
        held = (e.encoded.ids, e.encoded.mask, e.example.kind, e.example.rejected)
        digest.update(str(held).encode())
    return digest.hexdigest()


def prepare(part: DataPart, template: Template, seed: int, *, strict: bool = True) -> Prepared:
    """Read, split and encode the sources of a recipe.

    `strict`: bad rows raise DataError, all of them listed; else they stay in the tallies.
    """
    root = data_root(part.root)
    tallies = {name: Tally() for name in part.sources}
    if part.hold_out_seed is not None:
        seed = part.hold_out_seed
    raw = {
        name: sources.examples(source, root, tallies[name], seed=seed)
        for name, source in part.sources.items()
    }
    if strict:
        refuse_bad_rows([problem for tally in tallies.values() for problem in tally.problems])
    _drop_duplicates(raw, tallies)
    held_keys = _hold_out(raw, part, seed)
    train: dict[str, list[EncodedExample]] = {}
    held_out: dict[str, list[EncodedExample]] = {}
    apart = Prompts(p.text for suite in part.kept_apart for p in suites.load(suite).prompts)
    all_held = {prompt for keys in held_keys.values() for key in keys for prompt in key.split("\n")}
    for name, examples in raw.items():
        kept, held = [], []
        for example in examples:
            if example.key in held_keys[name]:
                held.append(example)
            elif any(prompt in all_held for prompt in example.prompts):
                tallies[name].left_out["shares a prompt with the held-out part"] += 1
            elif any(apart.near(prompt) for prompt in example.prompts):
                tallies[name].left_out["in a suite, or nearly"] += 1
            else:
                kept.append(example)
        held_tally = Tally()
        held_out[name] = encode(
            held, name, template, system=part.system, max_tokens=part.max_tokens, tally=held_tally
        )
        train[name] = encode(
            kept,
            name,
            template,
            system=part.system,
            max_tokens=part.max_tokens,
            tally=tallies[name],
        )
        tallies[name].left_out.update(held_tally.left_out)
        tallies[name].changed.update(held_tally.changed)
        if not train[name] and (strict or not tallies[name].problems):
            raise DataError(_nothing_left(name, tallies[name], len(held_out[name])))
    return Prepared(train, held_out, tallies)


def _nothing_left(name: str, tally: Tally, held_out: int) -> str:
    gone = {"held out": held_out, **tally.left_out}
    shown = ", ".join(f"{count:,} {reason}" for reason, count in gone.items() if count)
    return (
        f"source {name}: no row is left to train on; of {tally.read:,} read: {shown or 'none'}; "
        "give more rows, or change kinds, data.hold_out or data.max_tokens"
    )


def _drop_duplicates(raw: Mapping[str, list[Example]], tallies: Mapping[str, Tally]) -> None:
    """Keep the first of equal conversations, over all sources in the recipe's order."""
    seen: set[str] = set()
    for name, examples in raw.items():
        kept = []
        for example in examples:
            whole = example.key + "\n\n" + example.messages[-1]["content"]
            if whole in seen:
                tallies[name].left_out["duplicate"] += 1
            else:
                seen.add(whole)
                kept.append(example)
        examples[:] = kept


def _hold_out(raw: Mapping[str, list[Example]], part: DataPart, seed: int) -> dict[str, set[str]]:
    """The keys of each source's held-out conversations."""
    held: dict[str, set[str]] = {}
    for name, examples in raw.items():
        keys = sorted({example.key for example in examples})
        count = 0
        if part.hold_out > 0:
            count = round(len(keys) * part.hold_out)
            count = max(count, min(part.hold_out_at_least, len(keys) // 2))
        held[name] = set(random.Random(f"{seed} {name}").sample(keys, count))
    return held


def course(recipe: Recipe, prepared: Prepared) -> list[tuple[PhasePart, list[EncodedExample]]]:
    """The phases as they are trained, each with its examples; `joined` makes one of them all."""
    drawn = [(phase, phase_examples(phase, prepared, recipe.seed)) for phase in recipe.phases]
    if recipe.joined is None:
        return drawn
    (settings,) = (phase for phase in recipe.phases if phase.name == recipe.joined)
    together = [e for phase, examples in drawn for e in examples * phase.epochs]
    return [(settings.model_copy(update={"name": "joined", "epochs": 1}), together)]


def phase_examples(phase: PhasePart, prepared: Prepared, seed: int) -> list[EncodedExample]:
    """The examples of one phase: a seeded draw from each source of its mix."""
    pools = {entry: _pool(entry, prepared) for entry in phase.mix}
    chosen: list[EncodedExample] = []
    for entry, count in wanted(phase).items():
        pool = pools[entry]
        if entry.endswith(CONTRAST):
            chosen += pool[: count - count % 2]
            continue
        count = min(count, len(pool))
        picked = random.Random(f"{seed} {phase.name} {entry}").sample(range(len(pool)), count)
        chosen += [pool[i] for i in sorted(picked)]
    if phase.examples is not None and len(chosen) > phase.examples:
        picked = random.Random(f"{seed} {phase.name}").sample(range(len(chosen)), phase.examples)
        chosen = [chosen[i] for i in sorted(picked)]
    return chosen


def shortages(phase: PhasePart, prepared: Prepared) -> dict[str, tuple[int, int]]:
    """Entries of a phase's mix whose source has fewer examples than asked: (asked, there)."""
    there = {entry: len(_pool(entry, prepared)) for entry in phase.mix}
    return {e: (n, there[e]) for e, n in wanted(phase).items() if n > there[e]}


def _pool(entry: str, prepared: Prepared) -> list[EncodedExample]:
    """The training rows that an entry of a mix draws from: SOURCE, SOURCE:KIND, SOURCE:contrast."""
    name, _, kind = entry.partition(":")
    if entry.endswith(CONTRAST):
        pool = contrast_pairs(prepared.train[name])
    else:
        pool = [e for e in prepared.train[name] if not kind or e.example.kind == kind]
    if pool:
        return pool
    if entry.endswith(CONTRAST):
        raise DataError(
            f"mix entry {entry!r}: no harmful row of the source has a near look-alike to train on; "
            f"give it rows that have, or take a kind ({name}:harmful)"
        )
    raise DataError(f"mix entry {entry!r}: the source has no rows of kind {kind!r} to train on")


def wanted(phase: PhasePart) -> dict[str, int]:
    """How many examples of each entry of its mix a phase asks for."""
    if all(value < 1 for value in phase.mix.values()):
        assert phase.examples is not None  # the recipe's own check
        return _apportioned(phase.mix, phase.examples)
    return {entry: round(value) for entry, value in phase.mix.items()}


def _apportioned(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts in proportion to `weights` that sum to `total` (largest remainders)."""
    exact = {name: weight * total / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
