"""Two models side by side: loss, probe, speed and size, and which differences are real."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor import recipe as recipes
from stentor.data.encode import EncodedExample
from stentor.data.mix import prepare
from stentor.evaluate import suites
from stentor.evaluate.bootstrap import Floats, paired_bootstrap
from stentor.evaluate.loss import Loss, read_texts, row_losses, text_loss, total
from stentor.evaluate.paired import MEASURES, NUMBERS, UNTESTED, Measure, holm, paired, paired_means
from stentor.evaluate.probe import ProbeResult, Record, probe
from stentor.generate import Decoding, Engine
from stentor.model.find import resolve
from stentor.model.load import LoadedModel, load
from stentor.recipe import Recipe, TrainPart, validation_text
from stentor.train.device import Machine, machine

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
    """Figures of both models, and B − A with 95 % intervals where they can be set side by side.

    `data` is the recipe whose held-out rows are scored (a model trained by another one, or with
    another seed, may have learned from them); beside them stands the loss on the validation text
    that ships with the package.
    """
    computer = machine(TrainPart(precision="fp32"))
    recipe = recipes.load(data, Recipe)
    chosen = [suites.load(name) for name in suite_names]
    models = {"a": load(a), "b": load(b)}
    probes: dict[str, ProbeResult] = {}
    rows: dict[str, dict[str, list[Loss]]] = {}
    plain: dict[str, list[Loss]] = {}
    texts = read_texts(validation_text("bundled", None))[: recipe.base_text_rows]
    facts: dict[str, Any] = {}
    for side, loaded in models.items():
        loaded.model.to(computer.device)
        held_out = prepare(recipe.data, loaded.template, recipe.seed).held_out
        rows[side] = _rows(loaded, held_out, computer)
        plain[side] = _plain(loaded, texts, computer)
        engine = Engine(loaded)
        probes[side] = probe(engine, chosen, seed=seed, progress=progress)
        facts[side] = {
            "model": a if side == "a" else b,
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "bytes": _size(a if side == "a" else b),
            "probe": probes[side].figures()["greedy"],
        }
    speeds = _speeds(models)
    both = probes["a"].records, probes["b"].records
    return {
        "models": {side: facts[side] | speeds[side] for side in facts},
        "held_out_by": recipe.name,
        "loss": _losses(rows["a"], rows["b"], seed),
        "plain_text": loss_differences(plain["a"], plain["b"], seed),
        "probe": probe_differences(*both),
        "untested": untested_differences(*both),
        "replies": {name: paired_means(*both, number, seed) for name, number in NUMBERS.items()},
        "changes": count_changes(*both),
        "changed": changed_replies(*both),
        "reworded": reworded_replies(*both),
    }


def _rows(
    loaded: LoadedModel, held_out: dict[str, list[EncodedExample]], computer: Machine
) -> dict[str, list[Loss]]:
    decisions = loaded.template.decisions
    return {
        name: row_losses(loaded.model, rows, computer, decisions) for name, rows in held_out.items()
    }


def _plain(loaded: LoadedModel, texts: Sequence[str], computer: Machine) -> list[Loss]:
    """One loss a document, since the interval is over documents."""
    window = min(512, loaded.window)
    return [
        text_loss(loaded.model, loaded.tokenizer, [text], computer, window=window) for text in texts
    ]


def _size(name: str) -> int | None:
    """Bytes of a model's weights on disk."""
    place = resolve(name)
    if not isinstance(place, Path):
        return None
    files = [place] if place.is_file() else place.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _losses(
    a: Mapping[str, list[Loss]], b: Mapping[str, list[Loss]], seed: int
) -> dict[str, dict[str, Any]]:
    """Those of each source and overall."""
    pairs = {name: (a[name], b[name]) for name in a}
    pairs["overall"] = (
        [row for rows in a.values() for row in rows],
        [row for rows in b.values() for row in rows],
    )
    return {name: loss_differences(*pair, seed) for name, pair in pairs.items()}


def loss_differences(a: Sequence[Loss], b: Sequence[Loss], seed: int = 0) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of both models on `n` rows.

    `difference`, `low` and `high` are there where they mean something: of the first two only where
    both models split the rows into as many tokens, of bits per byte where the rows have the same
    length in bytes. Figures are None where a model has no row that fits.
    """
    sides = total(a).figures(), total(b).figures()
    known = bool(sides[0]["tokens"] and sides[1]["tokens"])
    found: dict[str, dict[str, Any]] = {
        name: {side: f[name] if known else None for side, f in zip("ab", sides, strict=True)}
        for name in ("loss", "perplexity", "bits_per_byte")
    }
    # other tokens, or other rows that fit: nats per token can't be set against each other
    if known and [r.tokens for r in a] == [r.tokens for r in b]:
        found["loss"] |= loss_difference(a, b, seed)
        found["perplexity"] |= paired_bootstrap(_per_token(a), _per_token(b), seed=seed, of=_exp)
    if known and [r.text_bytes for r in a] == [r.text_bytes for r in b]:
        found["bits_per_byte"] |= paired_bootstrap(_per_byte(a), _per_byte(b), seed=seed)
    return found.pop("loss") | {"n": len(a)} | found


def loss_difference(a: Sequence[Loss], b: Sequence[Loss], seed: int) -> dict[str, Any]:
    """b − a in nats per token over the same rows, with a 95 % bootstrap interval over rows."""
    return paired_bootstrap(_per_token(a), _per_token(b), seed=seed)


def _per_token(rows: Sequence[Loss]) -> list[tuple[float, float]]:
    return [(row.nats, row.tokens) for row in rows]


def _per_byte(rows: Sequence[Loss]) -> list[tuple[float, float]]:
    return [(row.nats / math.log(2), row.text_bytes) for row in rows]


def _exp(loss: Floats) -> Floats:
    perplexity: Floats = np.exp(np.minimum(loss, 700.0))  # as `Loss.figures` has it
    return perplexity


def probe_differences(a: Sequence[Record], b: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """For each measure the rates of both models and McNemar's exact test.

    `p_adjusted` is its p corrected by Holm's method for all measures that have a prompt, since of
    eleven tests one is easily below 0.05 by chance; None for the others.
    """
    found = {name: _rates(a, b, measure) for name, measure in MEASURES.items()}
    tested = [name for name, figures in found.items() if figures["n"]]
    corrected = holm([found[name]["p_value"] for name in tested])
    adjusted = dict(zip(tested, corrected, strict=True))
    return {name: f | {"p_adjusted": adjusted.get(name)} for name, f in found.items()}


def untested_differences(a: Sequence[Record], b: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The rates of both models, and the interval of B − A, where no test is made."""
    found = {name: _rates(a, b, measure) for name, measure in UNTESTED.items()}
    return {
        name: {key: value for key, value in figures.items() if key != "p_value"}
        for name, figures in found.items()
    }


def _rates(a: Sequence[Record], b: Sequence[Record], measure: Measure) -> dict[str, Any]:
    return paired(
        [r for r in a if measure.over(r)], [r for r in b if measure.over(r)], measure.holds
    ).figures()


def count_changes(a: Sequence[Record], b: Sequence[Record]) -> dict[str, int]:
    """Of how many prompts the greedy reply has another outcome, and of how many another text."""
    pairs = _side_by_side(a, b)
    return {
        "n": len(pairs),
        "outcome": sum(x.outcome != y.outcome for x, y in pairs),
        "text": sum(x.response != y.response for x, y in pairs),
    }


def changed_replies(a: Sequence[Record], b: Sequence[Record]) -> list[dict[str, Any]]:
    """The prompts whose greedy replies have another outcome."""
    return [_change(x, y) for x, y in _side_by_side(a, b) if x.outcome != y.outcome]


def reworded_replies(a: Sequence[Record], b: Sequence[Record]) -> list[dict[str, Any]]:
    """The prompts whose greedy replies have the same outcome in other words."""
    pairs = _side_by_side(a, b)
    return [_change(x, y) for x, y in pairs if x.outcome == y.outcome and x.response != y.response]


def _side_by_side(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    second = {r.key: r for r in b}
    return [(r, second[r.key]) for r in a if r.sample == 0]


def _change(a: Record, b: Record) -> dict[str, Any]:
    return {
        "id": a.id,
        "suite": a.suite,
        "kind": a.kind,
        "prompt": a.prompt,
        "a": {"outcome": a.outcome, "response": a.response},
        "b": {"outcome": b.outcome, "response": b.response},
    }


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
