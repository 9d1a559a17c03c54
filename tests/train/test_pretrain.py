"""Whole pretraining runs: killed and resumed, branched, and refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command
from stentor import recipe as recipes
from stentor.errors import CheckpointError, DataError, InputError, RecipeError
from stentor.recipe import PretrainRecipe
from stentor.train import checkpoint as checkpoints
from stentor.train import pretrain as pretraining
from stentor.train.pretrain import pretrain

STEP = 128  # tokens
TOKENS = 8 * STEP


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simple sentences to read, others to be evaluated on, and short dialogues."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    nouns, verbs = ["cat", "dog", "river", "teacher", "stone"], ["sees", "likes", "finds"]

    def sentence() -> str:
        return f"The {rng.choice(nouns)} {rng.choice(verbs)} a {rng.choice(nouns)}."

    def write(name: str, rows: list[Mapping[str, str]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(lines, encoding="utf-8")

    def texts(count: int) -> list[Mapping[str, str]]:
        return [{"text": " ".join(sentence() for _ in range(rng.randint(3, 12)))}
                for _ in range(count)]  # fmt: skip

    write("train.jsonl", texts(40))
    write("valid.jsonl", texts(6))
    write("talk.jsonl", [{"prompt": sentence(), "response": sentence()} for _ in range(30)])
    return folder


def recipe_of(corpus: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "made",
        "preset": "stentor-2m",
        "data": {
            "root": str(corpus),
            "corpora": {"made": {"path": "train.jsonl"}},
            "validation": "valid.jsonl",
            "dialogues": [{"use": "chat", "path": "talk.jsonl"}],
            "dialogue_share": 0.25,
        },
        "window": 64,
        "batch_tokens": STEP,
        "micro_tokens": 64,
        "tokens": TOKENS,
        "warmup_tokens": 2 * STEP,
        "schedule": {"shape": "wsd", "warmup": 0.0, "decay": 0.5},
        "softmax": {"whole": 0.5},
        "evaluate_every": 3,
        "evaluate_windows": 2,
        "train": {"checkpoint_every": 3, "energy": False},
    } | changes


def write(corpus: Path, name: str = "made.yaml", **changes: Any) -> Path:
    path = Path(name).absolute()
    path.write_text(json.dumps(recipe_of(corpus, **changes)), encoding="utf-8")
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(stentor: Command, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run that was not disturbed: 8 steps, the last 4 in the decay."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "made.yaml"
    recipe.write_text(json.dumps(recipe_of(corpus)), encoding="utf-8")
    env = {"STENTOR_CACHE": str(folder / "cache")}
    done = stentor("pretrain", recipe, "--out", folder / "run", env=env)
    assert (done.code, done.out) == (0, f"{folder / 'run'}\n"), done.err
    return folder / "run"


def test_the_run_learns_and_leaves_a_model_that_transformers_loads(whole: Path) -> None:
    found = metrics(whole)
    assert [m["step"] for m in found] == list(range(8))
    assert [m["tokens"] for m in found] == [STEP] * 8
    # the softmax over the pieces that occur, and in the decay over all
    before, after = [m["loss"] for m in found[:4]], [m["loss"] for m in found[4:]]
    assert before[-1] < before[0] < 5 < after[-1] < after[0]
    assert {m["step"] + 1 for m in found if "evaluation" in m} == {3, 6, 8}
    model = AutoModelForCausalLM.from_pretrained(whole / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    ids = tokenizer("The cat sees a dog.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(ids, labels=ids).loss.item() < 10.0  # log 32,768 is 10.4


def test_the_report_of_a_base_says_what_was_read(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    assert report["kind"] == "pretrain" and report["parameters"] == 2_417_472
    assert report["tokens_seen"] == report["outcome"]["tokens"] == TOKENS
    assert [e["step"] for e in report["outcome"]["evaluations"]] == [3, 6, 8]
    last = report["outcome"]["evaluations"][-1]["raw"]["loss"]
    assert last == metrics(whole)[-1]["evaluation"]["raw"]["loss"]
    assert {p.name for p in whole.iterdir()} >= {"recipe.yaml", "checkpoints", "model"}


def test_the_rate_warms_up_by_tokens_stays_and_falls(whole: Path) -> None:
    peak = PretrainRecipe.model_fields["learning_rate"].default
    rates = [m["rate"] / peak for m in metrics(whole)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.75, 0.5, 0.25])


def test_a_base_killed_again_and_again_ends_with_the_same_bits(
    stentor: Command, corpus: Path, whole: Path
) -> None:
    recipe, run, resume = write(corpus), Path("broken"), list[str]()
    for die in (
        ("open", "metrics.jsonl", 1),  # before there is any checkpoint
        ("os.rename", ".writing-01-0000003", 1),  # before the decay
        ("open", ".writing-01-0000006/state.json", 1),  # in the decay
        ("os.rename", ".report.json", 1),  # the model is there, the report not
    ):
        done = stentor("pretrain", recipe, "--out", run, *resume, die=die)
        assert done.code == -9, done.err
        resume = ["--resume"]
    done = stentor("pretrain", recipe, "--out", run, "--resume")
    assert (done.code, done.out) == (0, "broken\n"), done.err
    assert metrics(run) == metrics(whole)
    assert weights(run) == weights(whole)
    again = stentor("pretrain", recipe, "--out", run, "--resume")
    assert (again.code, again.out) == (0, "broken\n")
    assert again.err == "broken: the run is finished already\n"


def test_two_processes_share_the_steps_of_a_base(
    stentor: Command, corpus: Path, whole: Path
) -> None:
    recipe = write(corpus)
    done = stentor("pretrain", recipe, "--out", "two", ranks=2, env={"MASTER_PORT": "29643"})
    assert (done.code, done.out) == (0, "two\n"), done.err
    found, alone = metrics(Path("two")), metrics(whole)
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in alone], rel=1e-5)
    assert [m["tokens"] for m in found] == [STEP] * 8
    last = [m[-1]["evaluation"]["raw"]["loss"] for m in (found, alone)]
    assert last[0] == pytest.approx(last[1], rel=1e-4)


def test_two_processes_pretrain_on_a_set_from_the_hub_that_one_of_them_fetches(
    stentor: Command, corpus: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    lines = (corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()
    Path("set").mkdir()
    rows = [json.loads(line) for line in lines]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "set/train-00000-of-00001.parquet")
    data = {
        "corpora": {"made": {"hub": str(Path("set").absolute()), "tokens": 900}},
        "validation": "bundled",
    }
    recipe = write(corpus, data=data, tokens=2 * STEP, warmup_tokens=0)
    env = {"MASTER_PORT": "29644", "HF_HOME": str(Path("hf").absolute())}
    done = stentor("pretrain", recipe, "--out", "two", ranks=2, env=env)
    assert (done.code, done.out) == (0, "two\n"), done.err
    assert [m["tokens"] for m in metrics(Path("two"))] == [STEP] * 2
    report = json.loads((Path("two") / "report.json").read_text(encoding="utf-8"))
    assert 900 <= report["corpus_tokens"] < 1000
    assert metrics(Path("two"))[-1]["evaluation"]["raw"]["loss"] > 0


def test_a_corpus_without_a_revision_leaves_the_fingerprint_as_it_was_before_there_were_any(
    corpus: Path,
) -> None:
    """Checkpoints of runs that were begun before still fit."""
    data = recipe_of(corpus)["data"]
    pinned = data | {"corpora": {"made": {"path": "train.jsonl", "revision": "v2"}}}
    plain = parsed(corpus)
    fixed = pretraining._fixed(plain)
    assert "revision" not in fixed["data"]["corpora"]["made"]
    assert pretraining.fingerprint(plain) != pretraining.fingerprint(parsed(corpus, data=pinned))


def test_a_branch_of_the_stable_part_equals_a_run_that_ended_there_from_the_start(
    stentor: Command, corpus: Path, whole: Path
) -> None:
    # of 6 steps the last 3 are decay: the first 3 are those of the whole run
    straight = write(corpus, "straight.yaml", tokens=6 * STEP)
    start = whole / "checkpoints" / "01-0000003"
    branch = write(corpus, "branch.yaml", tokens=6 * STEP, start=str(start))
    for recipe in (straight, branch):
        done = stentor("pretrain", recipe, "--out", recipe.stem)
        assert done.code == 0, done.err
    losses = [[m["loss"] for m in metrics(run)[:3]] for run in (Path("straight"), whole)]
    assert losses[0] == losses[1]
    assert metrics(Path("branch")) == metrics(Path("straight"))[3:]
    assert weights(Path("branch")) == weights(Path("straight"))


def parsed(corpus: Path, **changes: Any) -> PretrainRecipe:
    return recipes.parse(recipe_of(corpus, **changes), PretrainRecipe, "made.yaml")


def test_a_branch_begins_before_the_decay(corpus: Path, whole: Path) -> None:
    late = whole / "checkpoints" / "01-0000006"
    with pytest.raises(InputError) as refused:
        pretrain(parsed(corpus, start=str(late)), Path("run"), resume=False)
    assert str(refused.value) == (
        "start: the earliest checkpoint stands at step 6, after the decay of its own run began "
        "(4); give an earlier one, or let that run keep more of them (train.keep_checkpoints)"
    )
    longer = {"start": str(late), "tokens": 16 * STEP}  # its decay begins at step 8, too late
    with pytest.raises(InputError, match="after the decay of its own run began"):
        pretrain(parsed(corpus, **longer), Path("longer"), resume=False)
    early = whole / "checkpoints" / "01-0000003"
    with pytest.raises(InputError) as refused:
        pretrain(parsed(corpus, start=str(early), tokens=4 * STEP), Path("short"), resume=False)
    assert str(refused.value) == (
        "start: the earliest checkpoint stands at step 3, after the decay is to begin (2); "
        "raise tokens, or keep more checkpoints (train.keep_checkpoints)"
    )


def changed(checkpoint: Path, **carried: Any) -> None:
    """Change what a checkpoint remembers for its run."""
    file = checkpoint / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["facts"]["carried"] = carried
    file.write_text(json.dumps(state), encoding="utf-8")


def copy_of(run: Path) -> Path:
    """A copy of a run as it was before it came to its end."""
    shutil.copytree(run, "copy")
    Path("copy/report.json").unlink()
    shutil.rmtree("copy/model")
    return Path("copy")


def test_a_checkpoint_from_before_runs_remembered_their_corpus_and_decay_still_fits(
    corpus: Path, whole: Path
) -> None:
    run = copy_of(whole)
    for kept in checkpoints.existing(run / "checkpoints"):
        state = checkpoints.read(kept, None)
        assert state.facts["carried"].keys() == {"decay_from", "decay", "corpus"}
        assert state.facts["carried"]["decay_from"] == 4
        changed(kept)
    assert pretrain(parsed(corpus), run, resume=True).finished
    assert metrics(run) == metrics(whole) and weights(run) == weights(whole)


def test_neither_a_run_nor_a_branch_goes_on_with_another_text(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    with (other / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "The cat sees a dog."}) + "\n")
    data = recipe_of(corpus)["data"] | {"root": str(other)}
    for place, options in (
        (copy_of(whole), {"resume": True}),
        (Path("branch"), {"resume": False, "start": str(whole / "checkpoints" / "01-0000003")}),
    ):
        resume = options.pop("resume")
        with pytest.raises(CheckpointError, match="it was trained on another corpus"):
            pretrain(parsed(corpus, data=data, **options), place, resume=bool(resume))


def test_a_decay_that_has_begun_is_not_moved_or_changed_by_resuming(
    corpus: Path, whole: Path
) -> None:
    run = copy_of(whole)
    while checkpoints.existing(run / "checkpoints")[-1].name != "01-0000006":
        shutil.rmtree(checkpoints.existing(run / "checkpoints")[-1])
    with pytest.raises(InputError) as refused:  # would go back to the full rate
        pretrain(parsed(corpus, tokens=16 * STEP), run, resume=True)
    assert str(refused.value) == (
        "copy: it stands at step 6; its decay was to begin at step 4 and would now begin at step "
        "8, and no step can be taken back; resume with tokens and schedule.decay as they were, or "
        "begin another run from a checkpoint before the decay (--set start=RUN)"
    )
    with pytest.raises(InputError, match=r"its decay has begun with other dialogues.*start=RUN"):
        data = recipe_of(corpus)["data"] | {"dialogue_share": 0.5}
        pretrain(parsed(corpus, data=data), run, resume=True)
    assert pretrain(parsed(corpus), run, resume=True).finished
    assert weights(run) == weights(whole)


def test_a_run_that_stands_before_its_decay_may_be_made_longer(corpus: Path, whole: Path) -> None:
    run = copy_of(whole)
    while checkpoints.existing(run / "checkpoints")[-1].name != "01-0000003":
        shutil.rmtree(checkpoints.existing(run / "checkpoints")[-1])
    data = recipe_of(corpus)["data"] | {"dialogue_share": 0.5}
    assert pretrain(parsed(corpus, tokens=10 * STEP, data=data), run, resume=True).finished
    assert [m["step"] for m in metrics(run)] == list(range(10))


def test_a_run_killed_before_its_first_checkpoint_goes_on_with_its_own_recipe_only(
    corpus: Path, whole: Path
) -> None:
    run = copy_of(whole)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError) as refused:
        pretrain(parsed(corpus, seed=2, about="free"), run, resume=True)
    assert str(refused.value) == (
        "copy: the run in it was begun with another recipe (other seed); resume with "
        "copy/recipe.yaml, or give another --out"
    )
    assert pretrain(parsed(corpus, about="free"), run, resume=True).finished
    assert weights(run) == weights(whole)
    kept = recipes.load(str(run / "recipe.yaml"), PretrainRecipe)
    assert kept.about == "free"  # what may change is written down


def test_a_run_may_be_named_as_the_start_and_its_newest_checkpoint_before_the_decay_is_taken(
    corpus: Path, whole: Path
) -> None:
    pretrain(parsed(corpus, start=str(whole)), Path("run"), resume=False)
    assert metrics(Path("run")) == metrics(whole)[3:]


def test_a_start_without_a_checkpoint_is_refused(corpus: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        pretrain(parsed(corpus, start="nowhere"), Path("run"), resume=False)
    assert str(refused.value) == "nowhere: there is no checkpoint to start from"


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"learning_rate": 0.002}, {"preset": "stentor-6m"}, {"window": 32}]
)
def test_a_branch_of_another_recipe_is_refused(
    corpus: Path, whole: Path, changes: dict[str, Any]
) -> None:
    start = str(whole / "checkpoints" / "01-0000003")
    with pytest.raises(CheckpointError, match="belongs to a run with another recipe"):
        pretrain(parsed(corpus, start=start, **changes), Path("run"), resume=False)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"batch_tokens": 250}, InputError, "batch_tokens: it must be a multiple of window (64)"),
        (
            {"batch_tokens": 64_000, "tokens": 64_000},
            DataError,
            "fewer than one step's 1000; give more text or smaller batch_tokens",
        ),
        ({"preset": "stentor-3m"}, InputError, "did you mean 'stentor-30m'?"),
        (
            {"window": 1024, "batch_tokens": 1000, "tokens": 500, "warmup_tokens": 600},
            RecipeError,
            "made: 4 mistakes\n"
            "  window: 1,024 is more than the 512 tokens that a preset can see; lower it\n"
            "  batch_tokens: it must be a multiple of window (1024)\n"
            "  tokens: 500 make no step of 1,000; raise it, or lower batch_tokens\n"
            "  warmup_tokens: the warm-up of 600 tokens would last to the end (500); lower it, or "
            "raise tokens",
        ),
        (
            {"train": {"forward": "plain", "micro_tokens": 512}},
            RecipeError,
            "made: 2 mistakes\n"
            "  train.forward: pretraining has the lean forward alone; leave it out\n"
            "  train.micro_tokens: it is for fine-tuning; set micro_tokens of the recipe itself",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do(
    corpus: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as refused:
        pretrain(parsed(corpus, **changes), Path("run"), resume=False)
    assert text in str(refused.value)


def test_bad_rows_of_the_dialogues_stop_the_run(corpus: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "Hi"}\n{"prompt": "Hi", "response": "Ho"}\n', encoding="utf-8")
    data = recipe_of(corpus)["data"] | {"dialogues": [{"use": "chat", "path": str(bad)}]}
    with pytest.raises(DataError) as refused:
        pretrain(parsed(corpus, data=data), Path("run"), resume=False)
    assert str(refused.value) == f"1 bad rows\n  {bad}:1: the reply is missing or empty"


def test_the_decay_brings_the_control_pieces_of_the_dialogues(
    stentor: Command, corpus: Path, whole: Path
) -> None:
    # [INST] and [/INST] occur in dialogues alone: without these their vectors are only pushed away
    plain = write(corpus, data=recipe_of(corpus)["data"] | {"dialogues": []})
    done = stentor("pretrain", plain, "--out", "plain")
    assert done.code == 0, done.err
    assert metrics(Path("plain"))[:4] == metrics(whole)[:4]
    assert metrics(Path("plain"))[4]["loss"] != metrics(whole)[4]["loss"]
    last = checkpoints.read(whole / "checkpoints" / "01-0000006", None)
    other = checkpoints.read(Path("plain/checkpoints/01-0000006"), None)
    name = "optimiser/model.embed_tokens.weight/exp_avg_sq"
    ratio = last.tensors[name].sum(-1) / other.tensors[name].sum(-1)
    assert ratio[3] > 10 and ratio[4] > 10 and ratio.median() < 2


def test_a_run_goes_on_from_the_weights_of_another_model(corpus: Path, whole: Path) -> None:
    settings = {"weights": str(whole), "tokens": STEP, "warmup_tokens": 0}
    recipe = recipes.load(str(write(corpus, **settings)), PretrainRecipe)
    went_on = pretrain(recipe, Path("went-on"), resume=False)
    before = load_file(whole / "model" / "model.safetensors")
    after = load_file(went_on.model / "model.safetensors")
    assert before.keys() == after.keys()
    moved = max(float((after[n].float() - t.float()).abs().max()) for n, t in before.items())
    assert 0 < moved < 0.05  # one step, not a fresh start


def test_weights_of_another_shape_are_refused(corpus: Path) -> None:
    recipe = recipes.load(str(write(corpus, weights="stentor-12m")), PretrainRecipe)
    with pytest.raises(InputError, match="stentor-12m has another shape than the preset"):
        pretrain(recipe, Path("refused"), resume=False)
