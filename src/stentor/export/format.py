"""What a format is: a writer, a runtime that runs what was written, and the types it knows.

Nothing heavy is imported here: the speed measurement starts a process of its own that should
hold the runtime and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stentor.errors import InputError, MissingExtra

Message = dict[str, str]
Floats = NDArray[np.float32]
Tier = Literal["exact", "8 bit", "4 bit"]
"""Which limits a copy must keep, see `parity.LIMITS`."""


class Runtime(Protocol):
    """A copy of a model, opened by the software that runs it."""

    name: str
    """The software and its version."""

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation through the copy's own template and tokenizer."""

    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits (T, vocabulary) after each of `ids` (T)."""

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Up to `count` likeliest tokens after each prompt, the stop token included."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Provenance:
    """Where a copy comes from; every format carries it in its own metadata."""

    name: str
    licence: str
    source: str
    source_sha256: str
    """Of `model.safetensors`, or of the tensors in fp32 where there is no such file."""
    command: str
    version: str
    system: str | None = None
    """The model's own system prompt."""

    def metadata(self) -> dict[str, str]:
        """As key and value strings."""
        known = {k: v for k, v in asdict(self).items() if k != "system"}
        return {f"stentor.{name}": str(value) for name, value in known.items()}


class Opener(Protocol):
    """What the module of a runtime has."""

    def open_runtime(self, folder: Path, kind: str, *, threads: int = 0) -> Runtime:
        """Open a copy; MissingPart when the runtime is not there. 0 threads: all cores."""


class Writer(Opener, Protocol):
    """What the module of a format has."""

    def write(self, loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
        """Write the copy into an empty folder; returns what a person should know about it."""


@dataclass(frozen=True)
class Format:
    """A format of the command line and what it needs."""

    name: str
    tiers: dict[str, Tier]
    """Each type, and the limits it must keep."""
    default: tuple[str, ...]
    """The types written when none is named."""
    needs: tuple[str, ...] = ()
    """Modules without which it can't be written."""
    runs_on: str | None = None
    """The module of its runtime; without it a copy is written but not verified."""
    type_needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules that single types need besides."""
    extra: str = ""
    also: tuple[str, ...] = ()
    """Modules of other runtimes that run the same files."""
    about: str = ""
    writer: Callable[[], Writer] = field(default=lambda: _missing(), compare=False)

    def require(self, kind: str) -> None:
        """MissingExtra when a package is missing that writing this type needs."""
        for module in (*self.needs, *self.type_needs.get(kind, ())):
            if importlib.util.find_spec(module) is None:
                extra = "llamacpp" if module == "cyllama" else self.extra
                raise MissingExtra(module, extra, f"the format {self.name}")


def _missing() -> Writer:
    raise AssertionError("a format without a writer")


def other_runtimes(found: Format) -> list[Opener]:
    """Modules of further runtimes that run a format's files."""
    return [importlib.import_module(f"stentor.export.{name}") for name in found.also]


def _module(name: str) -> Callable[[], Writer]:
    return lambda: importlib.import_module(f"stentor.export.{name}")


FORMATS = {
    f.name: f
    for f in (
        Format(
            "hf", {"f32": "exact", "f16": "exact"}, ("f16", "f32"),
            runs_on="transformers.models.llama.modeling_llama",
            about="safetensors for transformers 4 and 5", writer=_module("hf"),
        ),
        Format(
            "bnb", {"8bit": "8 bit", "4bit": "4 bit"}, ("8bit", "4bit"),
            ("bitsandbytes",), runs_on="bitsandbytes", extra="bnb",
            about="bitsandbytes; the embedding stays in 16 bit", writer=_module("bnb"),
        ),
        Format(
            "gguf",
            {
                "f32": "exact", "f16": "exact", "bf16": "8 bit", "q8_0": "8 bit",
                "q6_k": "8 bit", "q5_1": "4 bit", "q5_0": "4 bit", "q5_k_m": "4 bit",
                "q4_1": "4 bit", "q4_0": "4 bit", "q4_0_all": "4 bit", "q4_k_m": "4 bit",
            },
            ("f16", "q8_0", "q5_0", "q4_0", "q4_k_m"),
            ("gguf", "sentencepiece"), runs_on="cyllama.llama.llama_cpp", extra="gguf",
            type_needs=dict.fromkeys(("q6_k", "q5_k_m", "q4_k_m"), ("cyllama",)),
            about="llama.cpp and what is built on it", writer=_module("gguf"),
        ),
        Format(
            "onnx",
            {
                "fp32": "exact", "fp16": "exact", "int8": "8 bit", "int4": "4 bit",
                "int4e8": "4 bit",
            },
            ("fp32", "fp16", "int8", "int4", "int4e8"), ("onnx",),
            runs_on="onnxruntime", extra="onnx",
            also=("transformers_js",),
            about="ONNX Runtime, transformers.js", writer=_module("onnx"),
        ),
        Format(
            "genai",
            {
                "fp32": "exact", "fp16": "exact", "int8": "8 bit", "int4": "4 bit",
                "int4e8": "4 bit",
            },
            ("int8", "int4"), ("onnx",), runs_on="onnxruntime_genai", extra="genai",
            about="onnxruntime-genai", writer=_module("genai"),
        ),
        Format(
            "litert", {"fp32": "exact", "int8": "8 bit", "int4": "4 bit"},
            ("fp32", "int8", "int4"), runs_on="ai_edge_litert.interpreter", extra="litert",
            about="LiteRT (.tflite): Android, iOS, embedded", writer=_module("litert"),
        ),
        Format(
            "web", {"int8": "8 bit", "fp32": "exact"}, ("int8",), ("onnx",),
            runs_on="playwright.sync_api", extra="web",
            about="a folder of files: the model runs in the visitor's browser",
            writer=_module("web"),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One copy to be made: a format and a type of it."""

    format: Format
    kind: str

    @property
    def name(self) -> str:
        return f"{self.format.name}:{self.kind}"

    @property
    def folder(self) -> str:
        return f"{self.format.name}-{self.kind}"

    @property
    def tier(self) -> Tier:
        return self.format.tiers[self.kind]


def parse(wanted: Sequence[str]) -> list[Target]:
    """Targets from `hf`, `gguf:q8_0,q4_0`, `all`; InputError names what there is."""
    targets: dict[str, Target] = {}
    for word in wanted:
        name, _, kinds = word.partition(":")
        if name not in (*FORMATS, "all") or (name == "all" and kinds):
            raise InputError(f"--to {word}: no such format; there are all, {', '.join(FORMATS)}")
        for found in FORMATS.values() if name == "all" else [FORMATS[name]]:
            for kind in kinds.split(",") if kinds else found.default:
                if kind not in found.tiers:
                    raise InputError(
                        f"--to {word}: {found.name} has no type {kind!r}; it has "
                        f"{', '.join(found.tiers)}"
                    )
                target = Target(found, kind)
                targets[target.name] = target
    if not targets:
        raise InputError(f"export: say what to make with --to: all, {', '.join(FORMATS)}")
    return list(targets.values())
