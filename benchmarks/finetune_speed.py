"""How fast is the main phase of `open`, against TRL's SFTTrainer with PEFT, side by side.

    STENTOR_DATA=DIR python benchmarks/finetune_speed.py [--steps 1] [--batch 192] [--rounds 3]

The same rows, base, adapter (with its dropout), optimiser, clipping and effective batch in every
arm; only the reply is supervised in all of them. Each arm runs in a process of its own, the arms
take turns, and the first step of each is not counted (packed rows are no whole examples: there
all steps count, over all examples). Needs `pip install trl`. Prints a table in Markdown and, with
--out, keeps the raw numbers. A round of all fp32 arms takes about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS = {
    "stentor": "ours, as `stentor train open` runs it",
    "stentor-merged": "ours without LoRA dropout (merged on the fly)",
    "stentor-plain": "ours with the plain forward (`--set train.forward=plain`)",
    "trl-pad": "TRL, rows of like length padded, fp32",
    "trl-pack": "TRL, packed (best-fit), fp32",
    "trl-pad-bf16": "TRL, rows of like length padded, bf16",
    "trl-pack-bf16": "TRL, packed (best-fit), bf16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--arms", nargs="+", default=[a for a in ARMS if "plain" not in a], choices=[*ARMS]
    )
    parser.add_argument("--steps", type=int, default=1, help="counted steps")
    parser.add_argument("--batch", type=int, default=192, help="examples of a step")
    parser.add_argument("--micro", type=int, default=8, help="TRL: examples on the device at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options)))
        return
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    for number in range(options.rounds):
        for arm in options.arms:
            found[arm].append(in_own_process(arm, options))
            speed = found[arm][-1]["samples_per_second"]
            print(f"round {number + 1}, {arm}: {speed:.2f} samples/s", file=sys.stderr, flush=True)
    print(table(found))
    if os.environ.get("LD_PRELOAD"):
        print(f"\nIn every arm: LD_PRELOAD={os.environ['LD_PRELOAD']}")
    if options.out:
        from stentor.recipe import TrainPart
        from stentor.train.device import machine

        facts = {
            "machine": machine(TrainPart()).describe(),
            "preloaded": os.environ.get("LD_PRELOAD", ""),  # in every arm alike
            "options": vars(options) | {"out": None},
        }
        options.out.write_text(json.dumps({**facts, "runs": found}, indent=1) + "\n")


def in_own_process(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    numbers = ("steps", "batch", "micro")
    flags = [f"--{name}={getattr(options, name)}" for name in numbers]
    done = subprocess.run(
        [sys.executable, __file__, f"--arm={arm}", *flags], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over the rounds; the ratio is of each round to TRL's best arm of that round."""
    lines = [
        "| | samples/s, median (all) | times TRL's best | peak memory |",
        "| --- | --- | --- | --- |",
    ]
    rounds = len(next(iter(found.values())))
    best = [
        max((runs[n]["samples_per_second"] for a, runs in found.items() if "trl" in a), default=0)
        for n in range(rounds)
    ]
    for arm, runs in found.items():
        speeds = [run["samples_per_second"] for run in runs]
        ratios = [s / b for s, b in zip(speeds, best, strict=True) if b]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "–"
        shown = ", ".join(f"{s:.2f}" for s in speeds)
        peak = statistics.median(run["peak_mib"] for run in runs)
        speed = f"{statistics.median(speeds):.2f} ({shown})"
        lines.append(f"| {ARMS[arm]} | {speed} | {ratio} | {peak:,.0f} MiB |")
    return "\n".join(lines)


def run_arm(options: argparse.Namespace) -> dict[str, Any]:
    """One arm: its median step, and the most memory that the process held."""
    examples = (options.steps + 1) * options.batch
    run = ours if options.arm.startswith("stentor") else trl
    with tempfile.TemporaryDirectory() as folder:
        before, seconds = run(options, examples, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "samples_per_second": options.batch / statistics.median(seconds[1:]),
        "seconds": seconds,
        "peak_mib": peak,
        "before_mib": before,
    }


def recipe(options: argparse.Namespace, examples: int) -> Any:
    """`open` with its main phase alone, cut to so many examples."""
    from stentor.recipe import Recipe, load

    whole = load("open", Recipe)
    main_phase = whole.phases[1]
    total = sum(main_phase.mix.values())
    shares = {name: count / total * 0.999 for name, count in main_phase.mix.items()}
    changes: dict[str, Any] = {
        "mix": shares, "examples": examples, "epochs": 1, "batch": options.batch,
        "evaluate_every": None,
    }  # fmt: skip
    if options.arm == "stentor-merged":
        changes["dropout"] = 0.0
    phase = main_phase.model_copy(update=changes)
    changed = whole.model_copy(update={"phases": (phase,), "probe": None, "base_text": None})
    forward = "plain" if options.arm == "stentor-plain" else "lean"
    return changed.model_copy(
        update={
            "train": changed.train.model_copy(update={"forward": forward}),
            "data": changed.data.model_copy(update={"hold_out": 0.0}),
        }
    )


def ours(options: argparse.Namespace, examples: int, folder: Path) -> tuple[float, list[float]]:
    from stentor.train.curriculum import fine_tune

    run = fine_tune(recipe(options, examples), folder / "run", resume=False)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return 0.0, [json.loads(line)["seconds"] for line in lines]


def trl(options: argparse.Namespace, examples: int, folder: Path) -> tuple[float, list[float]]:
    """TRL as a careful user sets it up on a CPU: no checkpointing, no logging, like lengths."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from stentor.data import mix
    from stentor.data.encode import with_system
    from stentor.model.load import load as load_model

    part = recipe(options, examples)
    base = load_model("stentor-12m")
    prepared = mix.prepare(part.data, base.template, part.seed)
    chosen = mix.phase_examples(part.phases[0], prepared, part.seed)
    rows = [{"messages": list(with_system(e.example.messages, part.data.system))} for e in chosen]
    phase = part.phases[0]
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    packed = options.arm.startswith("trl-pack")
    # a packed row holds about two and a half examples of 236 tokens
    micro = max(1, options.micro * 2 // 5) if packed else options.micro
    trainer = SFTTrainer(
        model=base.model,
        args=SFTConfig(
            output_dir=str(folder), use_cpu=True, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, max_length=512 if packed else 384,
            per_device_train_batch_size=micro, gradient_checkpointing=False,
            gradient_accumulation_steps=options.batch // options.micro, num_train_epochs=1,
            learning_rate=phase.learning_rate, weight_decay=0.1, adam_epsilon=1e-6,
            max_grad_norm=1.0, lr_scheduler_type="cosine", bf16=options.arm.endswith("bf16"),
            assistant_only_loss=True, packing=packed, dataset_num_proc=None,
            train_sampling_strategy="random" if packed else "group_by_length",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokenizer,
        peft_config=LoraConfig(
            r=32, lora_alpha=32, use_rslora=True, lora_dropout=phase.dropout, bias="none",
            target_modules="all-linear", task_type="CAUSAL_LM",
        ),
        callbacks=[Clock()],
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    trainer.train()
    if packed:  # steps are of packed rows: what counts is examples over the whole pass
        seconds = [sum(seconds) * options.batch / len(rows)] * 2
    return before, seconds


if __name__ == "__main__":
    main()
