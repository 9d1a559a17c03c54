"""Where a run computes, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stentor.errors import InputError
from stentor.recipe import TrainPart
from stentor.train.hardware import hardware

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """A device, a precision, and the processes that share a step."""

    device: torch.device
    compute: torch.dtype
    accelerator: Any

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Matrix products in the compute precision; weights and optimiser stay in fp32."""
        if self.compute is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    @property
    def micro_tokens(self) -> int | None:
        """How many tokens of a micro-batch it works through fastest; None: any number."""
        return 2048 if self.device.type == "cpu" else None

    @property
    def lanes(self) -> int:
        """How many micro-batches it works through at a time."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the main process decides, in all processes."""
        if self.processes == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [decide() if self.is_main else None]
        broadcast_object_list(box)
        decided: T = box[0]
        return decided

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message."""
        if self.processes == 1:
            return
        trained = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in grads]), "sum")
        start = 0
        for p, g in zip(trained, grads, strict=True):
            p.grad = flat[start : start + g.numel()].view_as(p)
            start += g.numel()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a small tensor over all processes."""
        if self.processes == 1:
            return values
        summed: Tensor = self.accelerator.reduce(values, "sum")
        return summed

    def describe(self) -> dict[str, Any]:
        """For the report and the first line of a run."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = str(torch.cpu.get_capabilities().get("cpu_name", "CPU"))
        return {
            "device": self.device.type,
            "name": name,
            "processes": self.processes,
            "threads": torch.get_num_threads(),
            "precision": str(self.compute).removeprefix("torch."),
        } | hardware()


def has_fast_bf16(device: torch.device, *, varied: bool) -> bool:
    """Whether a run is faster in bf16 there than in fp32; emulated, bf16 is many times slower.

    Of CPUs those with AMX are taken, whose products are several times as fast in it, and AMD's with
    the AVX-512 instruction, whose products are twice as fast, unless batches are `varied`; a Xeon
    with that instruction alone was half as fast as in fp32 (docs/LOG.md). Told by what the
    processor has, never by a clock, so that a run which is resumed computes as it did before.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    return bool(has.get("amx_bf16") or (amd and not varied and has.get("avx512_bf16")))


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """In this block this thread, and those it starts, take numbers below 1e-38 as 0 on a CPU.

    Far tokens get such weights of attention. An Intel processor needs a hundred times as long for
    a product with one of them, which took up to half of a training step (docs/LOG.md). Only here:
    what else a program computes in the thread shall find its numbers as they were.
    """
    before = bool(torch.tensor(1e-40) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def machine(part: TrainPart, *, varied: bool = True) -> Machine:
    """The machine that a recipe's `train` part asks for; `auto` takes the best there is.

    varied: whether batches have many shapes, as in fine-tuning. oneDNN compiles its bf16 kernels
    for each shape, which costs AMD's processors more than they save; windows of one length gain.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    wanted = part.device
    if wanted != "auto" and not available[wanted]:
        raise InputError(f"train.device: {wanted} is not available here; use auto or cpu")
    best = next(kind for kind, there in available.items() if there)
    if part.threads:
        torch.set_num_threads(part.threads)
    accelerator = _accelerator(best if wanted == "auto" else wanted)
    device = torch.device(accelerator.device)
    if wanted not in ("auto", device.type):
        raise InputError(
            f"train.device: {wanted} is asked for, but accelerate was told to compute on "
            f"{device.type}; start without its --cpu and ACCELERATE_USE_CPU, or use auto"
        )
    return Machine(device, _compute(part, device, varied), accelerator)


def _accelerator(wanted: str) -> Any:
    """What accelerate knows of this process.

    It settles that once; what a run before this one (a cell of a sweep) settled for another device
    is dropped, where no other processes rely on it.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state:
        settled = AcceleratorState()
        if settled.device.type != wanted and settled.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=wanted == "cpu")


def _compute(part: TrainPart, device: torch.device, varied: bool) -> torch.dtype:
    if part.precision == "auto":
        if has_fast_bf16(device, varied=varied):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if part.precision == "fp16" and device.type != "cuda":
        raise InputError("train.precision: fp16 needs a CUDA GPU; use fp32 or bf16")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[part.precision]
