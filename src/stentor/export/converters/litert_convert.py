"""Runs in the converter's own environment: a model folder → .tflite files.

    python litert_convert.py FOLDER OUT '{"key": "value", …}'

writes OUT/fp32.tflite, OUT/int8.tflite and OUT/int4.tflite, each with the given metadata. It
imports nothing of ours: what it needs clashes with what we need.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

PREFILL, WINDOW = [32, 128], 512
RECIPES = {"int8": "dynamic_wi8_afp32", "int4": "dynamic_wi4b32_afp32"}


def main(folder: str, out: str, metadata: str) -> None:
    """Convert once, then quantise what came out."""
    with tempfile.TemporaryDirectory() as stubs:
        _stub_tensorflow(Path(stubs))
        sys.path.insert(0, stubs)
        from litert_torch.generative.export_hf.export import export

        made = Path(out) / "made"
        export(
            folder, str(made), prefill_lengths=PREFILL, cache_length=WINDOW,
            quantization_recipe="", bundle_litert_lm=False, keep_temporary_files=True,
        )  # fmt: skip
        plain = max(made.rglob("*.tflite"), key=lambda f: f.stat().st_size)
        from ai_edge_quantizer import quantizer, recipe

        files = {"fp32": plain}
        for kind, name in RECIPES.items():
            files[kind] = made / f"{kind}.tflite"
            work = quantizer.Quantizer(str(plain))
            work.load_quantization_recipe(getattr(recipe, name)())
            work.quantize().export_model(str(files[kind]), overwrite=True)
        for kind, file in files.items():
            stamp(file, Path(out) / f"{kind}.tflite", json.loads(metadata))


def _stub_tensorflow(folder: Path) -> None:
    """The converter imports one generated file of TensorFlow, which LiteRT has too."""
    package = folder / "tensorflow" / "lite" / "python"
    package.mkdir(parents=True)
    for place in (package, package.parent, package.parent.parent):
        (place / "__init__.py").write_text("", encoding="utf-8")
    (package / "schema_py_generated.py").write_text(
        "from ai_edge_litert.schema_py_generated import *\n", encoding="utf-8"
    )


def stamp(source: Path, target: Path, metadata: dict[str, str]) -> None:
    """Copy a .tflite file, with one more entry of metadata for each key."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    raw = source.read_bytes()
    model: Any = schema.ModelT.InitFromPackedBuf(bytearray(raw), 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # the quantiser lays the numbers behind the table, at this place
            buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    model.metadata = list(model.metadata or [])
    for key, value in metadata.items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.encode("utf-8"), np.uint8)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = key, len(model.buffers) - 1
        model.metadata.append(entry)
    builder = flatbuffers.Builder(len(raw) + (1 << 20))
    plain, schema.BufferT.Pack = schema.BufferT.Pack, _pack_aligned
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    finally:
        schema.BufferT.Pack = plain
    target.write_bytes(builder.Output())


def _pack_aligned(buffer: Any, builder: Any) -> Any:
    """`BufferT.Pack`, with the numbers at multiples of 16, as the runtime wants to map them."""
    from ai_edge_litert import schema_py_generated as schema

    place = None
    if buffer.data is not None and len(buffer.data):
        count = len(buffer.data)
        builder.StartVector(1, count, 16)
        builder.head -= count
        builder.Bytes[builder.head : builder.head + count] = bytes(bytearray(buffer.data))
        place = builder.EndVector()
    schema.BufferStart(builder)
    if place is not None:
        schema.BufferAddData(builder, place)
    return schema.BufferEnd(builder)


if __name__ == "__main__":
    main(*sys.argv[1:4])
