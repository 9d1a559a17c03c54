"""Two models side by side: loss, probe, speed and size, and which differences are real."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor import recipe as recipes
from stentor.data.encode import EncodedExample
from stentor.data.mix import prepare
from stentor.evaluate import suites
from stentor.evaluate.loss import Loss, row_losses, total
from stentor.evaluate.paired import MEASURES, holm, paired
from stentor.evaluate.probe import ProbeResult, Record, probe
from stentor.generate import Decoding, Engine
from stentor.model.find import resolve
from stentor.model.load import LoadedModel, load
from stentor.recipe import Recipe, TrainPart
from stentor.train.device import Machine, machine

_DRAWS = 2000  # of the bootstrap
_SPEED_PROMPTS = 32
_SPEED_TOKENS = 40


def compare(
    a: str,
    b: str,
    *,
    suite_names: Sequence[str],
    data: str,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Figures of both models; `data` is the recipe whose held-out rows are scored."""
    computer = machine(TrainPart(precision="fp32"))
    recipe = recipes.load(data, Recipe)
    chosen = [suites.load(name) for name in suite_names]
    models = {"a": load(a), "b": load(b)}
    probes: dict[str, ProbeResult] = {}
    rows: dict[str, dict[str, list[Loss]]] = {}
    facts: dict[str, Any] = {}
    for side, loaded in models.items():
        loaded.model.to(computer.device)
        held_out = prepare(recipe.data, loaded.template, recipe.seed).held_out
        rows[side] = _rows(loaded, held_out, computer)
        engine = Engine(loaded)
        probes[side] = probe(engine, chosen, seed=seed, progress=progress)
        facts[side] = {
            "model": a if side == "a" else b,
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "bytes": _size(a if side == "a" else b),
            "probe": probes[side].figures()["greedy"],
        }
    speeds = _speeds(models)
    return {
        "models": {side: facts[side] | speeds[side] for side in facts},
        "loss": _losses(rows["a"], rows["b"], seed),
        "probe": probe_differences(probes["a"].records, probes["b"].records),
        "changed": changed_replies(probes["a"].records, probes["b"].records),
    }


def _rows(
    loaded: LoadedModel, held_out: dict[str, list[EncodedExample]], computer: Machine
) -> dict[str, list[Loss]]:
    return {name: row_losses(loaded.model, rows, computer) for name, rows in held_out.items()}


def _size(name: str) -> int | None:
    """Bytes of a model's weights on disk."""
    place = resolve(name)
    if not isinstance(place, Path):
        return None
    files = [place] if place.is_file() else place.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _losses(
    a: dict[str, list[Loss]], b: dict[str, list[Loss]], seed: int
) -> dict[str, dict[str, Any]]:
    """Loss of each source and overall; intervals where both models split the text alike."""
    pairs = {name: (a[name], b[name]) for name in a}
    pairs["overall"] = (
        [row for rows in a.values() for row in rows],
        [row for rows in b.values() for row in rows],
    )
    found = {}
    for name, (first, second) in pairs.items():
        known = total(first).tokens and total(second).tokens
        figures: dict[str, Any] = {
            "a": total(first).mean if known else None,
            "b": total(second).mean if known else None,
            "n": len(first),
        }
        # other tokens, or other rows that fit: nats per token can't be set against each other
        alike = [r.tokens for r in first] == [r.tokens for r in second]
        figures |= loss_difference(first, second, seed) if known and alike else {}
        found[name] = figures
    return found


def loss_difference(a: Sequence[Loss], b: Sequence[Loss], seed: int) -> dict[str, float]:
    """b − a in nats per token over the same rows, with a 95 % bootstrap interval over rows."""
    tokens = np.array([r.tokens for r in a], dtype=np.float64)
    nats = np.array([y.nats - x.nats for x, y in zip(a, b, strict=True)])
    drawn = np.random.default_rng(seed).integers(len(a), size=(_DRAWS, len(a)))
    means = nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": nats.sum() / tokens.sum(), "low": float(low), "high": float(high)}


def probe_differences(a: Sequence[Record], b: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """For each measure the rates of both models and McNemar's exact test.

    `p_adjusted` is its p corrected by Holm's method for all measures that have a prompt, since of
    ten tests one is easily below 0.05 by chance; None for the others.
    """
    found = {
        name: paired(
            [r for r in a if measure.over(r)], [r for r in b if measure.over(r)], measure.holds
        ).figures()
        for name, measure in MEASURES.items()
    }
    tested = [name for name, figures in found.items() if figures["n"]]
    corrected = holm([found[name]["p_value"] for name in tested])
    adjusted = dict(zip(tested, corrected, strict=True))
    return {name: f | {"p_adjusted": adjusted.get(name)} for name, f in found.items()}


def changed_replies(a: Sequence[Record], b: Sequence[Record]) -> list[dict[str, Any]]:
    """The prompts whose greedy replies have another outcome."""
    second = {r.key: r for r in b}
    return [
        {
            "id": r.id,
            "suite": r.suite,
            "kind": r.kind,
            "prompt": r.prompt,
            "a": {"outcome": r.outcome, "response": r.response},
            "b": {"outcome": second[r.key].outcome, "response": second[r.key].response},
        }
        for r in a
        if r.sample == 0 and second[r.key].outcome != r.outcome
    ]


def _speeds(models: dict[str, LoadedModel]) -> dict[str, dict[str, float]]:
    """Tokens a second alone and in a batch, the models taking turns; the median of three."""
    prompts = suites.load("probe-500").prompts[:_SPEED_PROMPTS]
    conversations = [[{"role": "user", "content": prompt.text}] for prompt in prompts]
    engines = {side: Engine(loaded, batch=_SPEED_PROMPTS) for side, loaded in models.items()}
    decoding = Decoding.greedy(_SPEED_TOKENS)
    names = {"tokens_per_second_alone": conversations[:1], "tokens_per_second_batch": conversations}
    seen: dict[str, dict[str, list[float]]] = {side: {n: [] for n in names} for side in engines}
    for turn in range(4):  # the first warms up
        for side, engine in engines.items():
            for name, asked in names.items():
                started = time.perf_counter()
                count = sum(len(reply.ids) for reply in engine.replies(asked, decoding))
                if turn:
                    seen[side][name].append(count / (time.perf_counter() - started))
    return {
        side: {name: sorted(times)[len(times) // 2] for name, times in found.items()}
        for side, found in seen.items()
    }
