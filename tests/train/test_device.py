"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from stentor.errors import InputError
from stentor.recipe import TrainPart
from stentor.train.device import machine
from stentor.train.hardware import hardware

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
def test_a_device_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError) as refused:
        machine(TrainPart(device="cuda"))
    assert str(refused.value) == "train.device: cuda is not available here; use auto or cpu"


def test_fp16_without_a_gpu_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError) as refused:
        machine(TrainPart(device="cpu", precision="fp16"))
    assert str(refused.value) == "train.precision: fp16 needs a CUDA GPU; use fp32 or bf16"


@pytest.mark.parametrize(
    ("capabilities", "one_shape", "varied"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.float32, torch.float32),  # half as fast
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, torch.float32, torch.float32),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16, torch.float32),
        ({"cpu_name": "AMD EPYC"}, torch.float32, torch.float32),
        ({"avx2": True, "avx512_bf16": False}, torch.float32, torch.float32),
    ],
)
def test_auto_takes_bf16_on_processors_that_are_faster_in_it(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: Mapping[str, bool],
    one_shape: torch.dtype,
    varied: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(capabilities))
    assert machine(TrainPart(device="cpu"), varied=False).compute is one_shape
    assert machine(TrainPart(device="cpu")).compute is varied


@pytest.mark.parametrize(
    ("precision", "of_products"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_products_are_in_the_compute_precision_and_weights_stay_fp32(
    precision: str, of_products: torch.dtype
) -> None:
    computer = machine(TrainPart(device="cpu", precision=precision))
    layer = torch.nn.Linear(4, 4)
    with computer.autocast():
        assert layer(torch.ones(1, 4)).dtype is of_products
    assert layer.weight.dtype is torch.float32


def test_the_description_says_what_computes() -> None:
    facts = machine(TrainPart(device="cpu", precision="fp32")).describe()
    assert (
        facts
        == {
            "device": "cpu",
            "name": facts["name"],
            "processes": 1,
            "threads": torch.get_num_threads(),
            "precision": "float32",
        }
        | hardware()
    )
    assert facts["name"]


def test_the_description_says_what_the_machine_has() -> None:
    found = hardware()
    assert found["cores"] == os.cpu_count() and found["cores"] >= 1
    assert found["memory_gib"] > 0.5
    assert platform.system() in found["system"] or sys.platform == "darwin"


def test_the_threads_of_the_recipe_are_used() -> None:
    before = torch.get_num_threads()
    try:
        assert machine(TrainPart(device="cpu", threads=2)).describe()["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_after_one_on_another_device_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(TrainPart(device="cpu"))
    state = PartialState._shared_state  # as a cell of a sweep that trained on a GPU leaves it
    monkeypatch.setitem(state, "device", torch.device("cuda"))
    assert torch.device(AcceleratorState().device) == torch.device("cuda")
    assert machine(TrainPart(device="cpu")).device == torch.device("cpu")
    assert torch.device(AcceleratorState().device) == torch.device("cpu")


@NO_GPU
def test_a_device_that_accelerate_was_told_not_to_take_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(InputError) as refused:
        machine(TrainPart(device="cuda"))
    assert str(refused.value) == (
        "train.device: cuda is asked for, but accelerate was told to compute on cpu; start without "
        "its --cpu and ACCELERATE_USE_CPU, or use auto"
    )
    assert machine(TrainPart(precision="fp32")).device == torch.device("cpu")


def test_one_process_sums_and_agrees_with_itself() -> None:
    computer = machine(TrainPart(device="cpu"))
    values, weight = torch.tensor([1.0, 2.0]), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, 4.0])
    computer.sum_gradients([weight])
    assert torch.equal(weight.grad, torch.tensor([3.0, 4.0]))
    assert computer.sum(values) is values and computer.agreed(lambda: "mine") == "mine"
