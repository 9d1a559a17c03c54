"""How fast is pretraining, against the Trainer of transformers, side by side.

    STENTOR_DATA=DIR python benchmarks/pretrain_speed.py [--steps 4] [--rounds 3]

The same model (stentor-12m), windows of 512 tokens, 4,096 tokens a step and cores; ours in the
precision that it chooses, the Trainer in fp32 and, where the processor names units for it, in bf16.
Each arm runs in a process of its own, the arms take turns, and the first step of each is not
counted. The Trainer computes all logits and steps with AdamW; ours steps with Muon (dearer) in
every arm. `--matrix` also measures this processor's limit: the matrix products of one step alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS = {
    "stentor": "ours, as `stentor pretrain stentor-12m-base` runs it before the decay",
    "stentor-seen": "ours, softmax over all pieces that the corpus holds",
    "stentor-all": "ours, softmax over all pieces (as in the decay)",
    "trainer-4": "Trainer, 4 windows at a time",
    "trainer-8": "Trainer, 8 windows at a time",
    "trainer-8-bf16": "Trainer, 8 windows at a time, bf16",
}
WINDOW, STEP_TOKENS = 512, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    parser.add_argument("--steps", type=int, default=4, help="counted steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        with tempfile.TemporaryDirectory() as folder:
            run = ours if options.arm.startswith("stentor") else trainer
            seconds = run(options.arm, options.steps, Path(folder))
        print(json.dumps(seconds))
        return
    found: dict[str, list[float]] = {arm: [] for arm in options.arms}
    for number in range(options.rounds):
        for arm in options.arms:
            command = [sys.executable, __file__, f"--arm={arm}", f"--steps={options.steps}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
            seconds = json.loads(done.stdout.strip().splitlines()[-1])[1:]
            found[arm].append(STEP_TOKENS / statistics.median(seconds))
            print(f"round {number + 1}, {arm}: {found[arm][-1]:,.0f} tokens/s", file=sys.stderr)
    print(table(found))
    from stentor.recipe import TrainPart
    from stentor.train.device import machine

    place = machine(TrainPart(), varied=False).describe()
    facts: dict[str, Any] = {"machine": place, "options": vars(options) | {"out": None}}
    if options.matrix:
        facts["products_tokens_per_second"] = STEP_TOKENS / products()
        print(
            f"\n{place['name']}, {place['threads']} threads. Matrix products of a step alone, "
            f"fp32, softmax over all pieces: {facts['products_tokens_per_second']:,.0f} tokens/s"
        )
    if options.out:
        options.out.write_text(json.dumps({**facts, "runs": found}, indent=1) + "\n")


def table(found: dict[str, list[float]]) -> str:
    """Medians; the ratio is of each round to the Trainer's better arm of that round."""
    lines = ["| | tokens/s, median (all) | times the Trainer's best |", "| --- | --- | --- |"]
    theirs = [
        max(rates) for rates in zip(*(r for a, r in found.items() if "trainer" in a), strict=True)
    ]
    for arm, rates in found.items():
        ratios = [mine / other for mine, other in zip(rates, theirs, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "–"
        shown = ", ".join(f"{rate:,.0f}" for rate in rates)
        lines.append(f"| {ARMS[arm]} | {statistics.median(rates):,.0f} ({shown}) | {ratio} |")
    return "\n".join(lines)


def base_recipe(arm: str, steps: int) -> Any:
    from stentor.recipe import PretrainRecipe, SoftmaxPart, load

    whole = load("stentor-12m-base", PretrainRecipe)
    softmax = {
        "stentor": whole.softmax,
        "stentor-seen": SoftmaxPart(),
        "stentor-all": SoftmaxPart(seen_only=False),
    }.get(arm, whole.softmax)
    return whole.model_copy(
        update={
            "softmax": softmax, "embedding": None, "evaluate_every": 10_000, "evaluate_windows": 1,
            "schedule": whole.schedule.model_copy(update={"decay": 0.0}),
            "tokens": STEP_TOKENS * (steps + 1), "warmup_tokens": 0,
        }
    )  # fmt: skip


def ours(arm: str, steps: int, folder: Path) -> list[float]:
    from stentor.train.pretrain import pretrain

    run = pretrain(base_recipe(arm, steps), folder / "run", resume=False)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


def trainer(arm: str, steps: int, folder: Path) -> list[float]:
    """The Trainer as a careful user sets it up on a CPU: whole windows, no padding, no logging."""
    import torch
    from datasets import Dataset
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from stentor.data import corpus
    from stentor.model import tokenizer as tokenizers
    from stentor.model.presets import preset

    recipe = base_recipe(arm, steps)
    windows = corpus.pack(corpus.gather(recipe, tokenizers.bundled()), WINDOW, recipe.seed)
    count = STEP_TOKENS // WINDOW * (steps + 1)
    rows = [windows.stream[n * WINDOW : (n + 1) * WINDOW].astype("int64") for n in range(count)]
    data = Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
    torch.manual_seed(recipe.seed)
    micro = int(arm.split("-")[1])
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    Trainer(
        model=LlamaForCausalLM(preset(recipe.preset).config()),
        args=TrainingArguments(
            output_dir=str(folder), use_cpu=True, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP_TOKENS // WINDOW // micro, num_train_epochs=1,
            learning_rate=recipe.learning_rate, adam_beta2=0.95, weight_decay=0.01,
            bf16=arm.endswith("bf16"),
        ),
        train_dataset=data,
        callbacks=[Clock()],
    ).train()  # fmt: skip
    return seconds


def products() -> float:
    """Seconds of the matrix products of a step (forward and both gradients), attention left out."""
    import torch

    from stentor.model.presets import preset

    shape = preset("stentor-12m").config()
    rows, hidden, inner = 2048, shape.hidden_size, shape.intermediate_size
    layer = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    head = [(hidden, shape.vocab_size)]
    sizes = layer * shape.num_hidden_layers + head
    pairs = [(torch.randn(rows, a), torch.randn(a, b)) for a, b in sizes]
    took = []
    for _ in range(3):
        started = time.perf_counter()
        for x, w in pairs:
            y = x @ w
            y @ w.t()
            x.t() @ y
        took.append(time.perf_counter() - started)
    return statistics.median(took) * STEP_TOKENS / rows


if __name__ == "__main__":
    main()
