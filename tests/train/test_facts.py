"""The facts of a run: base, versions, machines."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest

from conftest import Command
from stentor.recipe import TrainPart
from stentor.train import facts
from stentor.train.device import Machine, machine

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def shards(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for file in files:
        file.write_bytes(file.name.encode())
    return files


def test_one_file_of_weights_has_its_own_hash() -> None:
    Path("model").mkdir()
    Path("model/model.safetensors").write_bytes(b"weights")
    found = facts.weight_files("model")
    assert found == [Path("model/model.safetensors")]
    assert facts.joint_hash(found) == hashlib.sha256(b"weights").hexdigest()
    assert facts.weight_files("model/model.safetensors") == found  # a GGUF file is given so


def test_all_shards_are_in_the_hash_and_sha256sum_repeats_it() -> None:
    files = shards(Path("model"))
    assert facts.weight_files("model") == files
    found = facts.joint_hash(files)
    line = "sha256sum *.safetensors | sha256sum"
    said = subprocess.run(line, shell=True, cwd="model", capture_output=True, text=True, check=True)
    assert found == said.stdout.split()[0]
    files[1].write_bytes(b"another")
    assert facts.joint_hash(files) != found


def test_a_base_from_the_hub_has_the_hash_and_revision_of_what_was_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = Path("cache").resolve()
    repo = cache / "models--me--base"
    files = shards(repo / "snapshots" / COMMIT)
    (repo / "snapshots" / COMMIT / "config.json").write_text("{}", encoding="utf-8")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert facts.weight_files("me/base") == files
    assert facts.revision("me/base") == COMMIT
    assert (facts.weight_files("me/other"), facts.revision("me/other")) == ([], None)


def test_random_weights_have_neither_files_nor_hash() -> None:
    found = facts.weight_files("preset:stentor-2m@1")
    assert found == [] and facts.joint_hash(found) is None
    assert facts.revision(None) is None


def test_versions_name_what_is_installed_and_nothing_else() -> None:
    found = facts.versions()
    there = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    for name in ("datasets", "codecarbon", "bitsandbytes"):
        assert (name in found) == (name in there)
    assert found["torch"] == importlib.metadata.version("torch")


def test_each_start_leaves_the_machine_it_was_on(cpu: Machine) -> None:
    assert facts.machines(Path()) == []
    facts.note_start(Path(), cpu)
    facts.note_start(Path(), cpu)
    first, second = facts.machines(Path())
    assert first == second == cpu.describe() | {"started": first["started"]}


def test_a_run_that_goes_on_in_another_precision_says_so() -> None:
    one, other = (machine(TrainPart(device="cpu", precision=p)) for p in ("fp32", "bf16"))
    assert facts.spoken_start(Path(), one).endswith("cpu float32")
    facts.note_start(Path(), one)
    assert facts.spoken_start(Path(), one).endswith("cpu float32")
    assert facts.spoken_start(Path(), other).endswith(
        "cpu bfloat16 (until now float32; train.precision keeps it)"
    )


def test_a_run_that_was_killed_names_the_machines_of_both_starts(
    stentor: Command, tiny_recipe: Path
) -> None:
    begun = Path("run/checkpoints")
    killed = stentor("train", tiny_recipe, "--out", "run", kill_when=lambda: any(begun.glob("*")))
    assert killed.code != 0
    assert stentor("train", tiny_recipe, "--out", "run", "--resume").code == 0
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert len(report["machines"]) == 2
    assert report["machines"][-1] == report["machine"] | {"started": report["finished"]}
