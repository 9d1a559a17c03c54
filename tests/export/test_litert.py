"""LiteRT: what is stamped into a file, and what is said when the converter can't work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_formats import PROVENANCE, tiny

from stentor.errors import InputError, ParityError
from stentor.export import litert
from stentor.export.converters import litert_convert


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


def test_the_converter_imports_nothing_of_ours() -> None:
    source = Path(litert_convert.__file__).read_text("utf-8")
    assert "import stentor" not in source and "from stentor" not in source
