"""How well a model tells harmful prompts from benign ones, wherever its threshold lies.

    python benchmarks/separation.py MODEL …            # models, or
    python benchmarks/separation.py SWEEP              # the folder of a sweep: its finished runs

A run of the sweep whose model was deleted is left out.

A model that refuses everything and one that refuses nothing may know as much. So no reply is
drawn here: a prompt's score is the chance that its reply begins as refusals do, which is the sum
over first tokens of their probability after the prompt, times the share of refusals among the
bundled replies that begin with that token (harmful rows refuse, all others answer; one of each is
added to every token's count; decision pieces say it themselves). Printed is the area under the ROC
curve on probe-500 (0.5 is chance): harmful against benign prompts, and against look-alikes alone.
For a sweep: means over seeds, and differences from the cell that all are compared with, with a 95 %
interval by a bootstrap of the prompts (2,000 draws, the same for both cells and all seeds).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor import assets
from stentor.data.files import read_rows
from stentor.evaluate import suites
from stentor.evaluate.bootstrap import DRAWS
from stentor.generate import Decoding, Engine
from stentor.generate.choice import open_engine
from stentor.report.tables import table

BATCH = 32
COMPARED = {"harmful, benign": ("benign", "borderline"), "harmful, look-alikes": ("borderline",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", help="models, or the folder of one sweep")
    options = parser.parse_args()
    first = Path(options.models[0])
    asked = suites.load("probe-500").prompts
    kinds = np.array([prompt.kind for prompt in asked])
    texts = [prompt.text for prompt in asked]
    if not (first / "results.json").is_file():
        for name in options.models:
            found = scores(open_engine(name, "torch", tell=lambda text: None), texts)
            areas = (
                f"{what}: {area(found, kinds, benign):.3f}" for what, benign in COMPARED.items()
            )
            print(f"{name}: {'; '.join(areas)}")
        return
    results = json.loads((first / "results.json").read_text(encoding="utf-8"))
    cells: dict[str, dict[int, Any]] = {}
    for cell in results["cells"]:
        for seed in cell["seeds"]:
            model = first / cell["folder"] / f"seed-{seed}" / "model"
            if not model.is_dir():
                print(f"left out, since its model is not there: {cell['name']}, seed {seed}")
                continue
            engine = open_engine(str(model), "torch", tell=lambda text: None)
            cells.setdefault(cell["name"], {})[seed] = scores(engine, texts)
    print(compared(cells, kinds, results["against"]))


def scores(engine: Engine, texts: Sequence[str]) -> Any:
    """(prompts,) how likely the reply to each begins as refusals do."""
    share = refusing(engine)
    found: list[float] = []
    for start in range(0, len(texts), BATCH):
        requests = [
            engine.request([{"role": "user", "content": text}], Decoding.greedy(1), likeliest=1000)
            for text in texts[start : start + BATCH]
        ]
        for drawn in engine.running().join(requests):
            assert drawn.chances is not None
            pairs = drawn.chances.likeliest
            found.append(sum(np.exp(log) * share.get(token, 0.5) for token, log in pairs))
    return np.array(found)


def refusing(engine: Engine) -> Mapping[int, float]:
    """For the first token of a reply, the share of refusals among bundled replies with it.

    The decision pieces of our template say it themselves; models that have not learned them draw
    them next to never.
    """
    refusals: Counter[int] = Counter()
    others: Counter[int] = Counter()
    for file in sorted(assets.path("data").glob("*.jsonl")):
        for row in read_rows(file):
            if "kind" in row.fields and "prompt" in row.fields:
                token = engine.chat.template.segment(row.fields["response"])[0]
                (refusals if row.fields["kind"] == "harmful" else others)[token] += 1
    # by rates and not by counts, as there are more answers than refusals
    many, more = refusals.total(), others.total()
    shares = dict(zip(engine.chat.template.decisions, (1.0, 1.0, 0.0), strict=False))
    for token in refusals | others:
        refuse, answer = (refusals[token] + 1) / many, (others[token] + 1) / more
        shares[token] = refuse / (refuse + answer)
    return shares


def area(found: Any, kinds: Any, benign: Sequence[str], draw: Any = None) -> float:
    """Area under the ROC curve of scores (prompts,); ties count a half."""
    draw = np.arange(len(found)) if draw is None else draw
    found, kinds = found[draw], kinds[draw]
    ill, well = found[kinds == "harmful"], np.sort(found[np.isin(kinds, benign)])
    below, upto = (np.searchsorted(well, ill, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(well))


def compared(cells: Mapping[str, Mapping[int, Any]], kinds: Any, against: str) -> str:
    """The table of a sweep."""
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(kinds), size=len(kinds)) for _ in range(DRAWS)]
    head, rows = ["cell", "seeds"], {name: [name, str(len(seeds))] for name, seeds in cells.items()}
    for what, benign in COMPARED.items():
        head += [f"AUC {what} (each seed)", f"difference from {against!r}"]
        areas = {  # of each run: over all prompts, then over each draw
            name: {
                seed: np.array([area(found, kinds, benign, draw) for draw in [None, *draws]])
                for seed, found in seeds.items()
            }
            for name, seeds in cells.items()
        }
        for name, runs in areas.items():
            each = [float(run[0]) for run in runs.values()]
            rows[name].append(f"{np.mean(each):.3f} ({', '.join(f'{a:.3f}' for a in each)})")
            if name == against:
                rows[name].append("")
                continue
            shared = sorted(runs.keys() & areas[against].keys())
            moved = np.mean([runs[seed] - areas[against][seed] for seed in shared], axis=0)
            low, high = np.quantile(moved[1:], (0.025, 0.975))
            rows[name].append(f"{moved[0]:+.3f} [{low:+.3f}, {high:+.3f}]")
    return table(head, list(rows.values()))


if __name__ == "__main__":
    main()
