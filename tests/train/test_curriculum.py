"""Whole fine-tuning runs: what they leave, and that killing one at any moment changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import TINY_RECIPE, Command, Run
from stentor import recipe as recipes
from stentor.chat import SegmentTemplate
from stentor.model import adapters, load
from stentor.model.save import save_model
from stentor.recipe import Recipe
from stentor.train import checkpoint as checkpoints
from stentor.train.curriculum import _Curriculum
from stentor.train.device import Machine
from stentor.train.rundir import RunDir


def strict_json(text: str) -> Any:
    """JSON as other languages read it: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock gave."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [strict_json(line) | {"seconds": 0} for line in lines]


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = strict_json((run / "report.json").read_text(encoding="utf-8"))
    return found


def timeless(run: Path) -> dict[str, Any]:
    """The report without what a clock gave."""
    found = report(run)
    clock = dict.fromkeys(("seconds", "tokens_per_second", "examples_per_second"), 0)
    phases = [phase | clock for phase in found["phases"]]
    return found | {"phases": phases, "finished": "", "machine": "", "machines": "",
                    "seconds": 0}  # fmt: skip


def files(run: Path) -> set[str]:
    return {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}


# what a run leaves


def test_the_run_folder_holds_what_the_design_promises(tiny_run: Run) -> None:
    inside = {p.name for p in tiny_run.path.iterdir()}
    assert inside >= {
        "recipe.yaml", "metrics.jsonl", "checkpoints", "adapters", "model", "report.json",
        "README.md", "probe.jsonl",
    }  # fmt: skip
    assert {p.name for p in (tiny_run.path / "adapters").iterdir()} == {"phase-1", "phase-2"}
    assert not [name for name in files(tiny_run.path) if ".tmp" in name or ".writing" in name]


def test_standard_output_is_the_path_of_the_run_and_nothing_else(tiny_run: Run) -> None:
    assert tiny_run.printed.out == f"{tiny_run.path}\n"
    assert "Warning" not in tiny_run.printed.err and "it/s" not in tiny_run.printed.err
    assert "second 4/4 evaluation loss: raw " in tiny_run.printed.err


def test_the_recipe_in_the_run_is_the_resolved_one(tiny_run: Run, tiny_recipe: Path) -> None:
    kept = recipes.load(str(tiny_run.path / "recipe.yaml"), Recipe)
    assert kept == recipes.load(str(tiny_recipe), Recipe)


def test_every_step_of_every_phase_is_a_line_of_metrics(tiny_run: Run) -> None:
    lines = metrics(tiny_run.path)
    assert [(m["phase"], m["name"], m["step"]) for m in lines] == [
        *((1, "first", step) for step in range(3)),
        *((2, "second", step) for step in range(4)),
    ]
    assert [m["step"] + 1 for m in lines if "evaluation" in m] == [3, 2, 4]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_model_loads_in_transformers_and_is_the_last_adapter_merged_in_fp32(
    tiny_run: Run,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_run.path / "model", dtype=torch.float32)
    base = load.load("preset:stentor-2m", seed=1).model
    merged = adapters.merge_adapter(base, tiny_run.path / "adapters" / "phase-2")
    expected = merged.state_dict()
    for name, found in model.state_dict().items():
        assert torch.equal(found, expected[name].half().float()), name


def test_the_weights_carried_on_are_those_of_the_best_evaluation(tiny_run: Run) -> None:
    phases = report(tiny_run.path)["phases"]
    for phase in phases:
        losses = {
            (kind, e["step"]): e[kind]["loss"]
            for e in phase["evaluations"] for kind in ("raw", "ema")
        }  # fmt: skip
        assert phase["best_loss"] == min(losses.values())
        assert losses[phase["kept"], phase["kept_step"]] == phase["best_loss"]
    whole = report(tiny_run.path)["evaluation"]["overall"]["loss"]
    assert whole == pytest.approx(phases[-1]["best_loss"], abs=1e-5)


def test_the_report_agrees_with_the_probe_and_the_data(tiny_run: Run) -> None:
    found = report(tiny_run.path)
    records = [
        strict_json(line)
        for line in (tiny_run.path / "probe.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(records) == 3
    assert found["probe"]["greedy"]["outcomes"] == Counter(r["outcome"] for r in records)
    assert found["data"]["seed"]["train"] + found["data"]["seed"]["held_out"] == 10
    assert found["data"]["stop"]["train"] + found["data"]["stop"]["held_out"] == 20
    state = load_file(tiny_run.path / "adapters" / "phase-2" / "adapter_model.safetensors")
    assert found["parameters"]["trained"] == sum(t.numel() for t in state.values())
    assert found["parameters"]["total"] == 2_417_472 + found["parameters"]["trained"]
    assert found["phases"][1]["steps"] == 4 and found["phases"][1]["examples"] == 16
    before, after = found["base_text_loss"]["before"], found["base_text_loss"]["after"]
    assert before != after and 0 < after < 12


def test_evaluating_the_run_by_its_own_recipe_gives_the_report(
    tiny_run: Run, stentor: Command
) -> None:
    recipe = tiny_run.path / "recipe.yaml"
    printed = stentor("evaluate", tiny_run.path, "--data", recipe, "--json")
    found, kept = strict_json(printed.out), report(tiny_run.path)["evaluation"]
    assert found["sources"].keys() == kept["sources"].keys() == {"seed", "stop"}
    for name, figures in [*found["sources"].items(), ("all", found["overall"])]:
        wanted = kept["overall"] if name == "all" else kept["sources"][name]
        assert figures["tokens"] == wanted["tokens"]
        assert figures["loss"] == pytest.approx(wanted["loss"], abs=5e-3)  # saved in fp16


def test_the_report_says_what_the_base_could_do_and_what_each_phase_changed(
    tiny_run: Run, stentor: Command
) -> None:
    found = report(tiny_run.path)
    recipe = tiny_run.path / "recipe.yaml"
    base = strict_json(stentor("evaluate", "preset:stentor-2m@1", "--data", recipe, "--json").out)
    before = found["before"]["evaluation"]
    assert base["overall"]["loss"] == pytest.approx(before["overall"]["loss"], abs=1e-4)
    assert before["overall"]["loss"] > found["evaluation"]["overall"]["loss"]
    points = [
        found["before"],
        found["phases"][0],
        found["probe"] | {"probe": found["probe"]["greedy"]},
    ]
    assert all(p["probe"]["harmful"]["refused_aloud"]["n"] == 1 for p in points)
    assert "probe" not in found["phases"][1]  # that one is the run's own probe
    for phase in found["phases"]:
        assert phase["tokens_per_second"] == pytest.approx(phase["tokens"] / phase["seconds"])
    assert found["seed"] == 1 and found["tokens"] == sum(p["tokens"] for p in found["phases"])
    assert found["versions"]["torch"] == torch.__version__
    assert found["licences"] == {
        "base": "apache-2.0", "data": {"seed": "apache-2.0", "stop": "apache-2.0"},
    }  # fmt: skip
    assert found["bytes"] == (tiny_run.path / "model/model.safetensors").stat().st_size
    assert found["energy"]["kwh"] == "unknown" and found["energy"]["why"] == ["train.energy is off"]


# killed and resumed


Kill = dict[str, Any]


@pytest.mark.parametrize(
    "kills",
    [
        [
            {"file_limit": 50_000},  # inside the tensors of the first checkpoint
            {"die": ("open", "metrics.jsonl", 3)},  # before there is any checkpoint
            {"die": ("os.rename", ".writing-01-0000002", 1)},  # whole, not yet in its place
            {"die": ("open", "phase-1/adapter_config.json", 1)},
        ],
        [
            {"die": ("os.rename", "02-0000000", 2)},  # an old one is about to be deleted
            {"die": ("os.rename", ".model.", 1)},
            {"die": ("os.rename", ".report.json.", 1)},
        ],
        [{"lines": 1}, {"lines": 4}, {"lines": 6}],  # from outside, at no exact moment
    ],
    ids=["in the first phase", "at the end", "from outside"],
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    stentor: Command, tiny_run: Run, tiny_recipe: Path, kills: Sequence[Kill]
) -> None:
    run = Path("broken")
    log = run / "metrics.jsonl"
    resume: list[str] = []
    for kill in kills:
        options: dict[str, Any] = dict(kill)
        if "lines" in options:
            wanted = options.pop("lines")
            options["kill_when"] = lambda n=wanted: (
                log.exists() and log.read_bytes().count(b"\n") >= n
            )
        done = stentor("train", tiny_recipe, "--out", run, *resume, **options)
        assert done.code in (-9, -25), (kill, done.err)  # by SIGKILL or SIGXFSZ
        assert not (run / "report.json").exists()
        newest = checkpoints.existing(run / "checkpoints")
        if newest:
            checkpoints.read(newest[-1], None)  # never damaged
        resume = ["--resume"]
    # how often to save is the machine's affair, not the run's
    done = stentor("train", tiny_recipe, "--out", run, "--resume", "--set",
                   "train.checkpoint_every=1")  # fmt: skip
    assert done.code == 0 and done.out == f"{run}\n", done.err
    assert metrics(run) == metrics(tiny_run.path)
    model = "model/model.safetensors"
    assert (run / model).read_bytes() == (tiny_run.path / model).read_bytes()
    for phase in ("phase-1", "phase-2"):
        adapter = f"adapters/{phase}/adapter_model.safetensors"
        assert (run / adapter).read_bytes() == (tiny_run.path / adapter).read_bytes()
    whole, found = timeless(tiny_run.path), timeless(run)
    found["recipe"]["train"] = whole["recipe"]["train"]
    assert found == whole
    kept = recipes.load(str(run / "recipe.yaml"), Recipe)
    assert kept.train.checkpoint_every == 1  # the recipe that it went on with
    saved = {name for name in files(run) if not name.startswith("checkpoints/")}
    assert saved == {n for n in files(tiny_run.path) if not n.startswith("checkpoints/")}


def unfinished(run: Run) -> Path:
    """A copy of a run as it was before its last file was written."""
    path = Path("copy")
    shutil.copytree(run.path, path)
    (path / "report.json").unlink()
    return path


def test_resuming_a_finished_run_changes_nothing(
    stentor: Command, tiny_run: Run, tiny_recipe: Path
) -> None:
    before = {name: (tiny_run.path / name).stat().st_mtime_ns for name in files(tiny_run.path)}
    done = stentor("train", tiny_recipe, "--out", tiny_run.path, "--resume")
    assert (done.code, done.out) == (0, f"{tiny_run.path}\n")
    assert done.err == f"{tiny_run.path}: the run is finished already\n"
    assert before == {n: (tiny_run.path / n).stat().st_mtime_ns for n in files(tiny_run.path)}


@pytest.mark.parametrize("change", ["seed=2", "phases.1.learning_rate=0.02"])
def test_a_run_does_not_go_on_with_another_recipe(
    stentor: Command, tiny_run: Run, tiny_recipe: Path, change: str
) -> None:
    path = unfinished(tiny_run)
    done = stentor("train", tiny_recipe, "--out", path, "--resume", "--set", change)
    assert done.code == 2 and done.out == ""
    assert done.err.splitlines()[-1] == (
        "error: copy/checkpoints/03-0000000: the checkpoint belongs to a run with another recipe, "
        "base or data; resume with the recipe.yaml in the run's folder and unchanged data, or "
        "start a new run"
    )


def test_a_run_without_a_checkpoint_yet_does_not_go_on_with_another_recipe(
    stentor: Command, tiny_recipe: Path
) -> None:
    killed = stentor("train", tiny_recipe, "--out", "run", die=("open", "metrics.jsonl", 1))
    assert killed.code == -9 and not Path("run/checkpoints").exists()
    before = Path("run/recipe.yaml").read_text(encoding="utf-8")
    changes = ("--set", "seed=2", "--set", "phases.0.epochs=2", "--set", "about=free")
    done = stentor("train", tiny_recipe, "--out", "run", "--resume", *changes)
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "error: run: the run in it was begun with another recipe (other seed, phases); resume with "
        "run/recipe.yaml, or give another --out"
    )
    assert Path("run/recipe.yaml").read_text(encoding="utf-8") == before


def test_examples_longer_than_the_base_can_see_are_refused(
    stentor: Command, tiny_recipe: Path
) -> None:
    done = stentor("train", tiny_recipe, "--out", "run", "--set", "data.max_tokens=513")
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "error: data.max_tokens: 513 are more than the 512 tokens that preset:stentor-2m can see; "
        "set it to 512 or less"
    )


def test_a_started_run_is_not_started_again_in_its_folder(
    stentor: Command, tiny_run: Run, tiny_recipe: Path
) -> None:
    done = stentor("train", tiny_recipe, "--out", tiny_run.path)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {tiny_run.path}: the folder is not empty; --resume goes on with the run in it, or "
        "give another --out\n"
    )


# other runs


@pytest.fixture
def small(write_rows: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a recipe of one short phase over rows of one's own."""

    def write(rows: list[dict[str, str]], base: str = "preset:stentor-2m", **changes: Any) -> Path:
        data = write_rows("rows.jsonl", rows)
        recipe = {
            "name": "small", "model": {"base": base}, "adapter": None, "probe": None,
            "data": {
                "system": None, "hold_out": 0, "hold_out_at_least": 0, "max_tokens": 64,
                "sources": {"rows": {"use": "chat", "path": str(data)}},
            },
            "phases": [{
                "name": "only", "mix": {"rows": 99}, "batch": 2, "schedule": {"warmup": 0},
            }],
            "train": {"checkpoint_every": 1, "energy": False},
        }  # fmt: skip
        return write_rows("small.yaml", [recipe | changes])

    return write


ROWS = [
    {"prompt": f"What is {n} plus one?", "response": f"It is {w}."}
    for n, w in enumerate(["one", "two", "three", "four"])
]


def test_a_run_of_all_weights_without_held_out_rows_system_prompt_or_probe(
    stentor: Command, small: Callable[..., Path]
) -> None:
    done = stentor("train", small(ROWS), "--out", "all")
    assert done.code == 0, done.err
    found = report(Path("all"))
    assert set(found["parameters"].values()) == {2_417_472}
    assert found["evaluation"]["overall"] == {
        "loss": None, "perplexity": None, "bits_per_byte": None, "tokens": 0,
    }  # fmt: skip
    assert found["phases"][0]["best_loss"] is None and "probe" not in found
    assert not Path("all/adapters").exists()
    merged = stentor("merge", "all")
    assert merged.code == 2 and merged.err == (
        "error: all: this run trained all weights, there is no adapter to merge; its model is "
        "whole already, in all/model\n"
    )
    card = Path("all/README.md").read_text(encoding="utf-8")
    assert "nan" not in card and "None" not in card and '"role": "system"' not in card


def test_a_run_does_not_go_on_with_other_data(stentor: Command, small: Callable[..., Path]) -> None:
    recipe = small(ROWS)
    stentor("train", recipe, "--out", "run", die=("os.rename", ".model.", 1))
    small([*ROWS[:-1], {"prompt": "What?", "response": "Something else."}])
    done = stentor("train", recipe, "--out", "run", "--resume")
    assert done.code == 2
    assert "belongs to a run with another recipe, base or data" in done.err


def test_a_loss_that_is_not_finite_ends_the_command_with_1_and_names_the_row(
    stentor: Command, small: Callable[..., Path], tiny_model: Any, tokenizer: Any
) -> None:
    tiny_model.config.tie_word_embeddings = False
    tiny_model.lm_head.weight = torch.nn.Parameter(tiny_model.lm_head.weight.detach().clone())
    (ids,) = (tokenizer("Zebra", add_special_tokens=False)["input_ids"],)
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight[ids[-1]] = float("nan")
    save_model(tiny_model, tokenizer, Path("base"), dtype=torch.float32)
    rows = [*ROWS, {"prompt": "Is it a Zebra", "response": "It is."}]
    done = stentor("train", small(rows, base="base"), "--out", "run")
    assert done.code == 1 and done.out == ""
    line = done.err.splitlines()[-1]
    assert line.startswith("error: phase 'only', step ")
    assert f"rows: {Path.cwd() / 'rows.jsonl'}:5; lower" in line or "rows.jsonl:5" in line
    assert "Traceback" not in done.err and not Path("run/report.json").exists()
    steps = len(metrics(Path("run"))) if Path("run/metrics.jsonl").exists() else 0
    kept = checkpoints.existing(Path("run/checkpoints"))
    assert [p.name for p in kept] == [f"01-{n:07d}" for n in range(1, steps + 1)][-2:]


def test_other_processes_read_no_checkpoint_that_the_first_may_be_writing(cpu: Machine) -> None:
    second = SimpleNamespace(num_processes=2, process_index=1, is_main_process=False)
    computer = Machine(cpu.device, cpu.compute, second)
    parts: list[Any] = [None, RunDir(Path("run")), computer, None, None, None]
    work = _Curriculum(*parts, whole_path=True)
    work.fingerprint, work.parameters = "", {}
    Path("run/checkpoints/01-0000001").mkdir(parents=True)  # of which nothing is there yet
    work._finish([], {})


def test_two_processes_share_the_steps_and_make_one_run(
    stentor: Command, tiny_run: Run, write_rows: Callable[..., Path]
) -> None:
    phase = TINY_RECIPE["phases"][0] | {"micro_batch": 1}
    recipe = write_rows("two.yaml", [TINY_RECIPE | {"phases": [phase], "probe": None}])
    done = stentor("train", recipe, ranks=2, env={"MASTER_PORT": "29641"})
    assert done.code == 0 and done.out == "runs/tiny\n", done.err
    assert [p.name for p in Path("runs").iterdir()] == ["tiny"]
    found, alone = metrics(Path("runs/tiny")), metrics(tiny_run.path)[:3]
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in alone], rel=1e-5)
    assert report(Path("runs/tiny"))["machine"]["processes"] == 2


def test_accelerate_launch_starts_the_processes(
    tiny_run: Run, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    phase = TINY_RECIPE["phases"][0] | {"micro_batch": 1}
    recipe = write_rows("two.yaml", [TINY_RECIPE | {"phases": [phase], "probe": None}])
    # on CPUs accelerate starts several processes only where GPUs are asked for
    launch = "accelerate.commands.accelerate_cli launch --multi_gpu --num_machines 1"
    asked = f"-m {launch} --num_processes 2 --mixed_precision no --dynamo_backend no"
    done = subprocess.run(
        [sys.executable, *asked.split(), "--main_process_port", "29644", "-m", "stentor.cli",
         "train", recipe, "--out", "run"],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"HF_HOME": str(tmp_path), "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "run\n", done.stderr
    found, alone = metrics(Path("run")), metrics(tiny_run.path)[:3]
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in alone], rel=1e-5)
    assert report(Path("run"))["machine"]["processes"] == 2


def test_a_step_that_one_process_takes_whole_is_shared_by_two(
    stentor: Command, template: SegmentTemplate, write_rows: Callable[..., Path]
) -> None:
    phase = TINY_RECIPE["phases"][0] | {"mix": {"stop": 18, "seed": 8}, "batch": 26}
    recipe = write_rows("two.yaml", [TINY_RECIPE | {"phases": [phase], "probe": None}])
    assert stentor("train", recipe, "--out", "one").code == 0
    done = stentor("train", recipe, "--out", "two", ranks=2, env={"MASTER_PORT": "29642"})
    assert done.code == 0, done.err
    (one,), (two,) = metrics(Path("one")), metrics(Path("two"))
    assert one["examples"] == two["examples"] == 26
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    system = {"role": "system", "content": TINY_RECIPE["data"]["system"]}
    prefix = template.encode([system, {"role": "user", "content": "?"}]).system
    assert two["tokens"] == one["tokens"] + prefix  # the prompt that all share, once in each part


def test_a_run_begun_by_one_process_may_be_resumed_by_two(
    stentor: Command, tiny_run: Run, write_rows: Callable[..., Path]
) -> None:
    phase = TINY_RECIPE["phases"][0] | {"micro_batch": 1}
    recipe = write_rows("two.yaml", [TINY_RECIPE | {"phases": [phase], "probe": None}])
    stentor("train", recipe, "--out", "run", die=("os.rename", ".report.json", 1))
    shutil.rmtree("run/checkpoints/02-0000000")  # what is left is that of step 2 of 3
    shutil.rmtree("run/model")
    done = stentor("train", recipe, "--out", "run", "--resume", ranks=2)
    assert done.code == 0 and "going on with phase 1, step 3" in done.err, done.err
    found, alone = metrics(Path("run")), metrics(tiny_run.path)[:3]
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in alone], rel=1e-5)


def test_a_killed_run_of_all_weights_goes_on_to_the_same_bits(
    stentor: Command, write_rows: Callable[..., Path]
) -> None:
    extra = {"dropout": 0.0, "keep": "last", "decision": {"weight": 4}, "unlikelihood": 0.5}
    phases = [phase | extra for phase in TINY_RECIPE["phases"]]
    recipe = write_rows(
        "all.yaml", [TINY_RECIPE | {"phases": phases, "adapter": None, "probe": None}]
    )
    assert stentor("train", recipe, "--out", "whole").code == 0
    log = Path("broken/metrics.jsonl")
    done = stentor(
        "train", recipe, "--out", "broken",
        kill_when=lambda: log.exists() and log.read_bytes().count(b"\n") >= 5,
    )  # fmt: skip
    assert done.code == -9, done.err
    done = stentor("train", recipe, "--out", "broken", "--resume")
    assert done.code == 0 and "going on with phase 2" in done.err, done.err
    model = "model/model.safetensors"
    assert Path("broken", model).read_bytes() == Path("whole", model).read_bytes()
    assert metrics(Path("broken")) == metrics(Path("whole"))
    card = Path("whole/README.md").read_text(encoding="utf-8")
    assert "| decision pieces | 90% × 4 (refusals × 1) |" in card
    assert "| unlikelihood | 0.5 |" in card


# the forward pass


def test_the_plain_forward_of_transformers_gives_the_same_run(
    stentor: Command, write_rows: Callable[..., Path]
) -> None:
    phases = [phase | {"dropout": 0.0} for phase in TINY_RECIPE["phases"]]
    recipe = write_rows("dry.yaml", [TINY_RECIPE | {"phases": phases, "probe": None}])
    lean = stentor("train", recipe, "--out", "lean", "--set", "train.micro_tokens=40")
    plain = stentor("train", recipe, "--out", "plain", "--set", "train.forward=plain")
    assert "lean forward, up to 40 tokens at a time" in lean.err
    assert "plain forward, up to 2,048 tokens at a time" in plain.err
    pairs = list(zip(metrics(Path("lean")), metrics(Path("plain")), strict=True))
    for a, b in pairs:
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
    assert any(a["loss"] != b["loss"] for a, b in pairs)  # they were computed in two ways
