"""Does the fast path learn what the plain fp32 path learns: the same data, seed and settings?

    STENTOR_DATA=DIR python benchmarks/finetune_loss.py [--examples 768] [--batch 48]

The main phase of `open`, cut to so many examples, once as `stentor train` runs it and once with
the forward of transformers in fp32 (`--set train.forward=plain`). Without dropout both should
take the same steps to rounding; with the recipe's dropout the random numbers differ, so only the
end can be compared. The plain path does about one example a second on two cores. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=768)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--held-out", type=int, default=20, help="rows of each source, at least")
    options = parser.parse_args()
    print("| dropout | final loss, fast | plain fp32 | difference | of a step's loss, at most | "
          "seconds |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for dropout in options.dropout:
        fast, plain = (run(options, dropout, forward) for forward in ("lean", "plain"))
        steps = max(abs(a - b) for a, b in zip(fast["losses"], plain["losses"], strict=True))
        print(
            f"| {dropout:g} | {fast['final']:.4f} | {plain['final']:.4f} | "
            f"{fast['final'] - plain['final']:+.4f} | {steps:.5f} | "
            f"{fast['seconds']:.0f}, {plain['seconds']:.0f} |",
            flush=True,
        )


def run(options: argparse.Namespace, dropout: float, forward: str) -> dict[str, Any]:
    """The losses of one run, step by step and on the held-out rows at its end."""
    from stentor.train.curriculum import fine_tune

    with tempfile.TemporaryDirectory() as folder:
        done = fine_tune(recipe(options, dropout, forward), Path(folder) / "run", resume=False)
        lines = [json.loads(line) for line in (done.path / "metrics.jsonl").open()]
    final = lines[-1]["evaluation"]["raw"]["loss"]
    print(f"{forward}, dropout {dropout:g}: {final:.4f}", file=sys.stderr, flush=True)
    return {
        "losses": [line["loss"] for line in lines],
        "seconds": sum(line["seconds"] for line in lines),
        "final": final,
    }


def recipe(options: argparse.Namespace, dropout: float, forward: str) -> Any:
    from stentor.recipe import Recipe, load

    whole = load("open", Recipe)
    main_phase = whole.phases[1]
    total = sum(main_phase.mix.values())
    phase = main_phase.model_copy(
        update={
            "mix": {name: count / total * 0.999 for name, count in main_phase.mix.items()},
            "examples": options.examples, "epochs": 1, "batch": options.batch,
            "dropout": dropout, "evaluate_every": None, "ema": None,
        }
    )  # fmt: skip
    held_out = {"hold_out": 1e-6, "hold_out_at_least": options.held_out}
    precision = "fp32" if forward == "plain" else "auto"
    return whole.model_copy(
        update={
            "phases": (phase,), "probe": None, "base_text": None,
            "data": whole.data.model_copy(update=held_out),
            "train": whole.train.model_copy(update={"forward": forward, "precision": precision}),
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
