"""Checkpoints: everything comes back, none is ever half there, and wrong ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from stentor.errors import CheckpointError, TrainingError
from stentor.recipe import OptimiserPart
from stentor.train import checkpoint as checkpoints
from stentor.train import optimiser as optimisers
from stentor.train.checkpoint import Checkpoint

FOLDER = Path("checkpoints")


def sample(phase: int = 1, step: int = 5, value: float = 1.0) -> Checkpoint:
    return Checkpoint(phase, step, {"weight/w": torch.full((3, 2), value)}, {"note": "é", "n": 1})


def save(checkpoint: Checkpoint, keep: int = 2, fingerprint: str = "abc") -> Path:
    return checkpoints.write(FOLDER, checkpoint, fingerprint, keep=keep)


def names() -> list[str]:
    return sorted(p.name for p in FOLDER.iterdir())


def test_everything_comes_back_with_its_bits() -> None:
    torch.manual_seed(0)
    tensors = {
        "weight/a": torch.randn(4, 3),
        "weight/half": torch.randn(5).to(torch.float16),
        "ema/b": torch.randn(2, 2).to(torch.bfloat16),
        "optimiser/a/step": torch.tensor(7.0),
        "best/transposed": torch.randn(3, 4).T,
        "best/parameter": torch.nn.Parameter(torch.tensor([float("inf"), -0.0])),
    }
    facts = {"outcome": {"loss": 0.1 + 0.2, "tokens": 2**60}, "carried": {"phases": [{"n": "é"}]}}
    path = save(Checkpoint(3, 12_345, tensors, facts))
    assert path == FOLDER / "03-0012345"
    found = checkpoints.read(path, "abc")
    assert (found.phase, found.step, found.facts) == (3, 12_345, facts)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype is tensor.dtype
        assert torch.equal(found.tensors[name], tensor.detach())


def test_no_pickle_is_in_a_checkpoint() -> None:
    path = save(sample())
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "state.safetensors"]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept_in_the_order_of_phase_and_step(keep: int) -> None:
    order = [(1, 2), (1, 10), (2, 0), (2, 9), (10, 0)]
    for phase, step in order:
        save(sample(phase, step), keep=keep)
    assert names() == [f"{phase:02d}-{step:07d}" for phase, step in order][-keep:]
    newest = checkpoints.newest(FOLDER, "abc")
    assert newest is not None and (newest.phase, newest.step) == (10, 0)


def test_without_a_folder_or_a_checkpoint_there_is_none() -> None:
    assert checkpoints.newest(FOLDER, "abc") is None
    FOLDER.mkdir()
    assert checkpoints.newest(FOLDER, "abc") is None


def test_a_checkpoint_that_is_there_is_not_written_again() -> None:
    save(sample(value=1.0))
    save(sample(value=2.0))
    assert checkpoints.read(FOLDER / "01-0000005", "abc").tensors["weight/w"].max() == 1.0


# refused


def message(path: Path, reason: str) -> str:
    return (
        f"{path}: the checkpoint is damaged ({reason}); delete {path} to go on from the one before "
        "it, or start a new run"
    )


def refused(path: Path, fingerprint: str = "abc") -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoints.read(path, fingerprint)
    return str(error.value)


@pytest.mark.parametrize("place", [0, 9, 60, -1])
def test_a_changed_byte_is_found(place: int) -> None:
    path = save(sample())
    content = bytearray((path / "state.safetensors").read_bytes())
    content[place] ^= 1
    (path / "state.safetensors").write_bytes(content)
    assert refused(path) == message(path, "its tensors don't match their hash")


def test_a_cut_file_is_found() -> None:
    path = save(sample())
    content = (path / "state.safetensors").read_bytes()
    (path / "state.safetensors").write_bytes(content[:-3])
    assert refused(path) == message(path, "its tensors don't match their hash")


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_missing_file_is_named(name: str) -> None:
    path = save(sample())
    (path / name).unlink()
    reason = f"[Errno 2] No such file or directory: '{path / name}'"
    assert refused(path) == message(path, reason)


@pytest.mark.parametrize(
    "content", [b"", b'{"format": 1, "finger', b"\xff\xfe", b"{}", b"[1]", b"null"]
)
def test_facts_that_are_cut_or_empty_are_damage(content: bytes) -> None:
    path = save(sample())
    (path / "state.json").write_bytes(content)
    assert refused(path).startswith(f"{path}: the checkpoint is damaged (")


def test_another_format_is_refused_with_what_to_do() -> None:
    path = save(sample())
    facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
    (path / "state.json").write_text(json.dumps(facts | {"format": 9}), encoding="utf-8")
    assert refused(path) == (
        f"{path}: the checkpoint has format 9, this version of stentor reads 1; resume with the "
        "version that wrote it, or start a new run"
    )


def test_a_checkpoint_of_another_run_is_refused_with_what_to_do() -> None:
    path = save(sample(), fingerprint="abc")
    assert refused(path, "xyz") == (
        f"{path}: the checkpoint belongs to a run with another recipe, base or data; resume with "
        "the recipe.yaml in the run's folder and unchanged data, or start a new run"
    )


def test_after_deleting_the_damaged_one_the_one_before_is_taken() -> None:
    save(sample(step=1))
    path = save(sample(step=2))
    (path / "state.safetensors").unlink()
    with pytest.raises(CheckpointError):
        checkpoints.newest(FOLDER, "abc")
    shutil.rmtree(path)  # as the message says
    newest = checkpoints.newest(FOLDER, "abc")
    assert newest is not None and newest.step == 1


# interrupted


class Killed(BaseException):
    """Stands for the end of the process."""


def stop(*_: Any, **__: Any) -> None:
    raise Killed


def half(tensors: dict[str, Tensor], file: Path) -> None:
    file.write_bytes(b"\x10\0\0\0")
    raise Killed


@pytest.mark.parametrize(
    ("name", "at"),
    [("save_file", half), ("sha256", stop), ("_sync", stop)],
    ids=["in the tensors", "after the tensors", "before the rename"],
)
def test_an_interrupted_write_leaves_the_one_before_and_no_half_one(
    monkeypatch: pytest.MonkeyPatch, name: str, at: Callable[..., None]
) -> None:
    save(sample(step=1, value=1.0))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, name, at)
        save(sample(step=2, value=2.0))
    assert [p.name for p in checkpoints.existing(FOLDER)] == ["01-0000001"]
    newest = checkpoints.newest(FOLDER, "abc")
    assert newest is not None and newest.step == 1
    save(sample(step=2, value=2.0))  # the resumed run comes here again
    assert names() == ["01-0000001", "01-0000002"]
    newest = checkpoints.newest(FOLDER, "abc")
    assert newest is not None and newest.tensors["weight/w"].max() == 2.0


def test_an_old_checkpoint_disappears_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    save(sample(step=1))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints.shutil, "rmtree", stop)
        save(sample(step=2), keep=1)
    assert [p.name for p in checkpoints.existing(FOLDER)] == ["01-0000002"]
    save(sample(step=3), keep=1)
    assert names() == ["01-0000003"]


def test_a_full_disk_stops_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    save(sample(step=1))
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(TrainingError) as error:
        save(sample(step=2))
    assert str(error.value) == (
        "checkpoints/01-0000002: the checkpoint can't be written: I/O error: No space left on "
        "device (os error 28); make room on the disk and go on with --resume"
    )
    assert [p.name for p in checkpoints.existing(FOLDER)] == ["01-0000001"]


# optimisers


def state_of(
    built: list[torch.optim.Optimizer], weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names = {p: n for n, p in weights.items()}
    return checkpoints.optimiser_tensors(built, names), checkpoints.optimiser_facts(built, names)


@pytest.mark.parametrize("facts_kept", [True, False])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimiser_put_back_takes_the_same_steps_bit_for_bit(
    name: str, facts_kept: bool
) -> None:
    def made() -> tuple[dict[str, Tensor], list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        shapes = {"embed.weight": (9, 4), "q_proj.weight": (4, 6), "norm.weight": (4,)}
        weights: dict[str, Tensor] = {
            n: torch.nn.Parameter(torch.randn(s)) for n, s in shapes.items()
        }
        part = OptimiserPart.model_validate({"name": name, "weight_decay": 0.1})
        return weights, optimisers.build(weights, part, 0.01)

    def step(weights: dict[str, Tensor], all_of_them: list[Any], number: int) -> None:
        torch.manual_seed(number)
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        for optimiser in all_of_them:
            optimiser.step()

    weights, built = made()
    for number in range(3):
        step(weights, built, number)
    tensors, facts = state_of(built, weights)
    tensors |= {f"weight/{n}": p for n, p in weights.items()}
    read = checkpoints.read(save(Checkpoint(1, 3, tensors, facts)), "abc")
    kept = read.tensors

    other, rebuilt = made()
    with torch.no_grad():
        for n, p in other.items():
            p.copy_(kept[f"weight/{n}"])
    # checkpoints from before there were facts of the optimisers
    checkpoints.restore_optimisers(rebuilt, other, kept, read.facts if facts_kept else {})
    for number in range(3, 6):
        step(weights, built, number)
        step(other, rebuilt, number)
    for n, p in weights.items():
        assert torch.equal(other[n], p), n


class Counting(torch.optim.Optimizer):
    """Counts its steps in a Python number, as bitsandbytes' AdamW does."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__(weights, {"lr": 1.0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            if not state:
                state |= {"step": 0, "state1": torch.zeros_like(weight)}
            assert type(state["step"]) is int
            state["step"] += 1
            state["state1"] += state["step"]


def test_a_number_in_the_state_of_an_optimiser_comes_back_as_a_number() -> None:
    weights: dict[str, Tensor] = {"a.weight": torch.nn.Parameter(torch.ones(3))}
    optimiser, again = Counting([*weights.values()]), Counting([*weights.values()])
    optimiser.step()
    optimiser.step()
    read = checkpoints.read(save(Checkpoint(1, 2, *state_of([optimiser], weights))), "abc")
    checkpoints.restore_optimisers([again], weights, read.tensors, read.facts)
    for one in (optimiser, again):
        one.step()
        assert one.state[weights["a.weight"]]["state1"].tolist() == [6.0] * 3


def test_the_state_of_another_optimiser_is_refused() -> None:
    weights: dict[str, Tensor] = {"a.weight": torch.nn.Parameter(torch.ones(3))}
    optimiser = Counting([*weights.values()])
    optimiser.step()
    tensors, facts = state_of([optimiser], weights)
    with pytest.raises(CheckpointError) as refused:
        checkpoints.restore_optimisers(
            [torch.optim.AdamW(weights.values())], weights, tensors, facts
        )
    assert str(refused.value) == (
        "the checkpoint holds the state of Counting, and here there is AdamW; resume where the run "
        "was begun (paged AdamW needs a CUDA GPU and the package bitsandbytes), or start a new run"
    )
