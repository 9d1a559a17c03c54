"""LiteRT: what is stamped into a file, and what is said when the converter can't work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from test_formats import PROVENANCE, reference_logits, tiny

from stentor.errors import InputError, ParityError
from stentor.export import environments, litert
from stentor.export.converters import litert_convert
from stentor.export.format import Provenance


def a_file(file: Path, numbers: bytes, *, behind: bool) -> None:
    """A .tflite file of one tensor; `behind`: its numbers after the table, as quantisers do it."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT()
    model.version = 3
    empty, buffer = schema.BufferT(), schema.BufferT()
    if behind:
        buffer.offset, buffer.size = 2**32, len(numbers)  # as wide as the real place will be
    else:
        buffer.data = np.frombuffer(numbers, np.uint8)
    model.buffers = [empty, buffer]

    def packed() -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    table = packed()
    if behind:
        buffer.offset = len(table)
        table = packed()
        assert len(table) == buffer.offset
    file.write_bytes(table + (numbers if behind else b""))


@pytest.mark.parametrize("behind", [False, True])
def test_metadata_is_added_and_the_numbers_kept_aligned(tmp_path: Path, behind: bool) -> None:
    numbers = bytes(range(250)) * 3
    a_file(tmp_path / "in.tflite", numbers, behind=behind)
    litert_convert.stamp(
        tmp_path / "in.tflite", tmp_path / "out.tflite", {"licence": "Apache-2.0", "command": "x y"}
    )
    from ai_edge_litert import schema_py_generated as schema

    raw = (tmp_path / "out.tflite").read_bytes()
    model = schema.Model.GetRootAs(raw, 0)
    assert model.Buffers(1).DataAsNumpy().tobytes() == numbers
    assert raw.index(numbers) % 16 == 0
    found = {
        model.Metadata(i).Name().decode(): model.Buffers(
            model.Metadata(i).Buffer()
        ).DataAsNumpy().tobytes().decode()
        for i in range(model.MetadataLength())
    }  # fmt: skip
    assert found == {"licence": "Apache-2.0", "command": "x y"}


def test_a_converter_that_fails_is_a_failure_of_the_copy(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ValueError: no such layer' >&2\nexit 1\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(litert, "python_with", lambda packages, purpose: python)
    with pytest.raises(ParityError, match="the converter failed: ValueError: no such layer"):
        (tmp_path / "copy").mkdir()
        litert.write(tiny(tokenizer), tmp_path / "copy", "fp32", PROVENANCE)
    assert litert._made == {}


def test_another_window_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    loaded = tiny(tokenizer)
    loaded.model.config.max_position_embeddings = 256
    with pytest.raises(InputError, match="only a window of 512"):
        litert.write(loaded, tmp_path, "fp32", PROVENANCE)


class Signature:
    """A signature over a cache, as LiteRT has it: a place is what it sees of those before it."""

    calls: ClassVar[list[tuple[str, int]]] = []
    spoiled = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_input_details(self) -> dict[str, Any]:
        return {n: {"shape": (1, litert.WINDOW)} for n in ("kv_cache_k_0", "kv_cache_v_0")}

    def __call__(self, tokens: Any, input_pos: Any, mask: Any, **cache: Any) -> dict[str, Any]:
        length = 1 if self.name == "decode" else int(self.name.removeprefix("prefill_"))
        assert tokens.shape == (1, length) and tokens.dtype == input_pos.dtype == np.int32
        assert mask.shape == (1, 1, length, litert.WINDOW) and mask.dtype == np.float32
        self.calls.append((self.name, int(input_pos[0])))
        keys, values = (x.copy() for x in cache.values())
        keys[0, input_pos] = tokens[0] + (self.name == self.spoiled)
        seen = np.isfinite(mask[0, 0])
        values[0, input_pos] = (seen * keys * (1 + np.arange(litert.WINDOW) % 7)).sum(-1)
        found = dict(zip(cache, (keys, values), strict=True))
        if self.name == "decode":
            total = (seen * values).sum() % 1009
            found["logits"] = np.cos(total * np.arange(1, 12, dtype=np.float32))[None, None]
        return found


class Interpreter:
    def __init__(self, file: str, num_threads: int | None) -> None: ...

    def get_signature_list(self) -> dict[str, Any]:
        return dict.fromkeys(("decode", "prefill_32", "prefill_128"))

    def get_signature_runner(self, name: str) -> Signature:
        return Signature(name)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> litert.LiteRtRuntime:
    """The runtime over signatures whose arithmetic a test can follow."""
    pytest.importorskip("ai_edge_litert")
    stand_in = SimpleNamespace(Interpreter=Interpreter)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", stand_in)
    monkeypatch.setattr(Signature, "calls", [])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 99}', "utf-8")
    return litert.LiteRtRuntime(tmp_path / "a.tflite", 1)


def test_a_prompt_goes_through_the_longest_prefill_that_fits_and_the_rest_by_decode(
    opened: litert.LiteRtRuntime,
) -> None:
    prompts = [[(7 * i) % 50 for i in range(length)] for length in (1, 32, 33, 128, 129, 170, 400)]
    replies = []
    for prompt in prompts:
        Signature.calls.clear()
        replies += opened.greedy([prompt], 3)
        last = len(prompt) - 1
        due, done = [], 0
        for size in (128, 128, 128, 32, 32, 32):
            if done + size <= last:
                due.append((f"prefill_{size}", done))
                done += size
        assert Signature.calls[: len(due)] == due
        assert Signature.calls[len(due) :] == [("decode", i) for i in range(done, last + 3)]
    opened._prefill = {}
    assert opened.greedy(prompts, 3) == replies and len({*map(tuple, replies)}) > 3


@pytest.mark.parametrize(("spoiled", "wrong_from"), [("prefill_32", 32), ("prefill_128", 128)])
def test_a_prefill_that_is_wrong_shows_in_the_logits(
    opened: litert.LiteRtRuntime, monkeypatch: pytest.MonkeyPatch, spoiled: str, wrong_from: int
) -> None:
    ids = [(7 * i) % 50 for i in range(180)]
    found = opened.logits(ids)
    assert {("prefill_32", 0), ("prefill_128", 0), ("prefill_32", 128)} <= {*Signature.calls}
    monkeypatch.setattr(Signature, "spoiled", spoiled)
    wrong = opened.logits(ids)
    assert (wrong[:wrong_from] == found[:wrong_from]).all()
    assert (wrong[wrong_from] != found[wrong_from]).any()
    opened._prefill = {}
    assert (opened.logits(ids) == found).all()  # by decode alone


@pytest.fixture(scope="module")
def real(tokenizer: Any) -> Iterator[tuple[Any, Provenance]]:
    """A model and its origin; what was converted of it lives as long as these tests."""
    pytest.importorskip("ai_edge_litert")
    if not environments.has_python_with(litert.CONVERTER):
        pytest.skip("the converter is not here; stentor export MODEL --to litert installs it")
    yield tiny(tokenizer), replace(PROVENANCE, source_sha256="real")
    if made := litert._made.pop("real", None):
        made.cleanup()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "within"), [("fp32", 1e-4), ("int8", 0.3)])
def test_prefill_and_decode_of_a_real_file_give_the_same_logits(
    tmp_path: Path, real: tuple[Any, Provenance], kind: str, within: float
) -> None:
    loaded, provenance = real
    ids = [1, 15, 2000, 5000, 16, 3, *range(1100, 1260), 29473, 781, 4]
    litert.write(loaded, tmp_path, kind, provenance)
    runtime: Any = litert.open_runtime(tmp_path, kind, threads=1)
    with_prefill, replies = runtime.logits(ids), runtime.greedy([ids, ids[:40]], 6)
    due = reference_logits(loaded, ids)
    assert set(runtime._prefill) == {32, 128}
    assert np.abs(with_prefill - due).max() < within < np.abs(due - due[::-1]).max() / 10
    runtime._prefill = {}
    assert np.abs(runtime.logits(ids) - with_prefill).max() < within / 3
    if kind == "fp32":
        assert runtime.greedy([ids, ids[:40]], 6) == replies
    runtime.close()


def test_the_converter_imports_nothing_of_ours() -> None:
    source = Path(litert_convert.__file__).read_text("utf-8")
    assert "import stentor" not in source and "from stentor" not in source
