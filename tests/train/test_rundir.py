"""A run's folder: never reused silently, and found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError, InputError, RecipeError
from stentor.recipe import Recipe, dump, parse
from stentor.train.rundir import RunDir, open_run


def start(name: str = "card", out: Path | None = None) -> Path:
    return open_run(name, out, resume=False, recipe_yaml=f"name: {name}\n").path


def go_on(name: str = "card", out: Path | None = None) -> Path:
    return open_run(name, out, resume=True, recipe_yaml="").path


def test_runs_of_a_name_are_numbered_and_resume_takes_the_newest() -> None:
    assert [start() for _ in range(11)] == [
        Path("runs/card"),
        *(Path(f"runs/card-{number}") for number in range(2, 12)),
    ]
    assert go_on() == Path("runs/card-11")  # not card-9, which sorts last as text


def test_a_number_that_was_deleted_is_not_given_again() -> None:
    for _ in range(3):
        start()
    (Path("runs/card-2") / "recipe.yaml").unlink()
    Path("runs/card-2").rmdir()
    assert start() == Path("runs/card-4")
    assert go_on() == Path("runs/card-4")


@pytest.mark.parametrize("other", ["card-big", "cardinal", "card-2b", "my-card"])
def test_other_runs_with_similar_names_are_not_taken_for_it(other: str) -> None:
    start(other)
    assert start() == Path("runs/card")
    assert go_on() == Path("runs/card")


@pytest.mark.parametrize("file", ["recipe.yaml", "sweep.yaml"])
def test_a_run_of_another_recipe_whose_name_is_like_a_number_is_not_resumed(file: str) -> None:
    def named(name: str, *, resume: bool) -> Path:
        text = f"name: {name}\n"
        return open_run(name, None, resume=resume, recipe_yaml=text, file=file).path

    assert [named("exp", resume=False), named("exp-2", resume=False)] == [
        Path("runs/exp"), Path("runs/exp-2"),
    ]  # fmt: skip
    assert named("exp", resume=True) == Path("runs/exp")
    assert named("exp-2", resume=True) == Path("runs/exp-2")
    assert named("exp", resume=False) == Path("runs/exp-3")
    assert named("exp", resume=True) == Path("runs/exp-3")


def test_a_name_may_hold_characters_that_mean_something_in_a_glob() -> None:
    assert [start("a[1]*") for _ in range(2)] == [Path("runs/a[1]*"), Path("runs/a[1]*-2")]
    assert go_on("a[1]*") == Path("runs/a[1]*-2")


def test_a_folder_with_anything_in_it_is_never_reused() -> None:
    first = start(out=Path("mine"))
    assert (first / "recipe.yaml").read_text(encoding="utf-8") == "name: card\n"
    with pytest.raises(InputError) as refused:
        start(out=Path("mine"))
    assert str(refused.value) == (
        "mine: the folder is not empty; --resume goes on with the run in it, or give another --out"
    )
    Path("other").mkdir()
    Path("other/thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"^other: the folder is not empty"):
        start(out=Path("other"))
    assert [p.name for p in Path("other").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_used_and_a_file_is_refused() -> None:
    Path("empty").mkdir()
    assert start(out=Path("empty")) == Path("empty")
    Path("file").write_text("", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        start(out=Path("file"))
    assert str(refused.value) == "file: it is a file; give another --out"


@pytest.mark.parametrize(("out", "shown"), [(None, "runs/card"), (Path("gone"), "gone")])
def test_resuming_nothing_says_so(out: Path | None, shown: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        go_on(out=out)
    assert str(refused.value) == (
        f"{shown}: there is no run to resume; leave out --resume to start"
    )
    assert not Path("gone").exists()


def test_a_run_killed_before_its_recipe_was_written_can_be_started_again() -> None:
    left_over = Path("mine/.recipe.yaml.123.tmp")
    left_over.parent.mkdir()
    left_over.write_text("na", encoding="utf-8")
    assert start(out=Path("mine")) == Path("mine")
    assert not left_over.exists()


def recipe(**changes: Any) -> Recipe:
    raw = {
        "name": "r", "data": {"sources": {"seed": {"use": "seed_safety"}}},
        "phases": [{"name": "one", "mix": {"seed": 8}}],
    }  # fmt: skip
    return parse(raw | changes, Recipe, "r")


def fixed(found: Recipe) -> dict[str, Any]:
    return found.model_dump(mode="json", exclude={"about", "train"})


def test_a_run_is_not_taken_up_by_another_recipe() -> None:
    path = open_run("r", None, resume=False, recipe_yaml=dump(recipe())).path
    run = RunDir(path)
    run.refuse_other(recipe(about="free", train={"checkpoint_every": 7}), fixed)
    with pytest.raises(CheckpointError) as refused:
        run.refuse_other(recipe(seed=2, adapter=None, about="free"), fixed)
    assert str(refused.value) == (
        "runs/r: the run in it was begun with another recipe (other seed, adapter); resume with "
        "runs/r/recipe.yaml, or give another --out"
    )
    (path / "recipe.yaml").write_text("name: r\nphasen: []\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^runs/r/recipe\.yaml: "):
        run.refuse_other(recipe(), fixed)


def test_the_recipe_that_a_run_goes_on_with_is_written_down() -> None:
    run = RunDir(open_run("r", None, resume=False, recipe_yaml=dump(recipe())).path)
    run.keep_recipe(recipe(about="more"))
    assert "about: more" in (run.path / "recipe.yaml").read_text(encoding="utf-8")


def test_resume_passes_over_a_folder_without_a_recipe() -> None:
    first = start()
    Path("runs/card-2").mkdir()
    assert go_on() == first


def test_resuming_clears_what_was_half_written_and_nothing_else() -> None:
    path = start()
    (path / ".model.77.tmp").mkdir()
    (path / ".model.77.tmp" / "config.json").write_text("{", encoding="utf-8")
    (path / ".report.json.77.tmp").write_text("{", encoding="utf-8")
    (path / "adapters" / "phase-1").mkdir(parents=True)
    (path / "adapters" / "phase-1" / ".generation_config.json.7.tmp").touch()
    (path / "notes.tmp").touch()
    go_on()
    left = {p.relative_to(path).as_posix() for p in path.rglob("*")}
    assert left == {"recipe.yaml", "notes.tmp", "adapters", "adapters/phase-1"}


def test_metrics_are_whole_lines_and_a_half_one_is_passed_over() -> None:
    run = RunDir(start())
    assert run.metrics() == []
    run.log(phase=1, step=0, loss=2.5)
    run.log(phase=1, step=1, loss=2.25)
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"phase": 1, "st')
    assert [m["loss"] for m in run.metrics()] == [2.5, 2.25]


@pytest.mark.parametrize(
    ("phase", "step", "kept"), [(1, 0, 0), (1, 2, 2), (2, 0, 3), (2, 1, 4), (3, 0, 6)]
)
def test_rewinding_drops_the_steps_that_will_be_taken_again(
    phase: int, step: int, kept: int
) -> None:
    run = RunDir(start())
    steps = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    for number, (p, s) in enumerate(steps):
        run.log(phase=p, step=s, number=number)
    run.rewind(phase, step)
    assert [m["number"] for m in run.metrics()] == list(range(kept))
    run.log(phase=phase, step=step, number=99)
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["number"] == 99 and len(lines) == kept + 1


def test_a_run_is_finished_once_it_has_its_report() -> None:
    run = RunDir(start())
    assert not run.finished
    (run.path / "report.json").write_text("{}", encoding="utf-8")
    assert run.finished
