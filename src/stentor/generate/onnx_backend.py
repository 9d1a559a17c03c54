"""The fast backend for processors: ONNX Runtime over a cached copy (see `onnx_copy`).

Nothing is copied between tokens: the cache, the inputs and the logits are our own memory, bound
once and written in place until rows come or go.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import MissingExtra, ModelError
from stentor.generate.backend import Cache, Floats, Ints


def threads() -> int:
    """How many threads to compute with: OMP_NUM_THREADS, or one for each core that is ours."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxBackend:
    """A cached copy in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, kind: str, window: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "onnx", "the backend onnx") from None
        count = threads()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = count
        basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.graph_optimization_level = basic  # the graph is written as it should run
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime raises kinds of its own for a damaged file
            raise ModelError(f"{file}: ONNX Runtime can't read this copy: {error}") from error
        noun = "thread" if count == 1 else "threads"
        self.name = f"ONNX Runtime {onnxruntime.__version__}, {kind}, {count} {noun}"
        self.window, self.precision = window, kind
        (logits,) = (o for o in self._session.get_outputs() if o.name == "logits")
        self._vocabulary = int(logits.shape[1])
        names = [i for i in self._session.get_inputs() if i.name.startswith("past_")]
        self._layers, shape = len(names) // 2, names[0].shape
        self._heads, self._size = int(shape[1]), int(shape[3])
        self._step = _Call(1, 1, self._vocabulary)
        self._bound: tuple[int, Any] = (-1, None)

    def new_cache(self, rows: int, room: int) -> Cache:
        """An empty cache of `rows` rows of at most `room` tokens."""
        return Cache.empty(self._layers, rows, self._heads, room, self._size, _zeros)

    def forward(self, ids: Ints, counts: Ints, cache: Cache) -> Floats:
        """Append ids (B, T), of which the first `counts` (B,) of a row are real.

        Returns the logits (B, V) after each row's last real token, in memory that the next call
        overwrites.
        """
        rows, width = ids.shape
        if width == 1:
            found = self._one_each(ids, cache)
        elif rows == 1 or not cache.lengths.any():
            found = self._several(ids, counts, cache)
        else:  # the operator takes several tokens after others only for one row at a time
            pairs = zip(ids, counts, strict=True)
            found = np.concatenate([
                self._several(row[None, :count], counts[place, None], cache.row(place))
                for place, (row, count) in enumerate(pairs)
            ])  # fmt: skip
        cache.lengths[:] += counts
        return found

    def _one_each(self, ids: Ints, cache: Cache) -> Floats:
        """One token for each row, with the memory that the call before was bound to."""
        if self._bound[0] != cache.place:
            if len(self._step.ids) != cache.rows:
                self._step = _Call(cache.rows, 1, self._vocabulary)
            self._bound = cache.place, self._binding(self._step, cache)
        step = self._step
        step.ids[:] = ids
        step.seen[:] = lengths = cache.lengths
        step.total[0] = lengths.max() + 1
        self._session.run_with_iobinding(self._bound[1])
        return step.logits

    def _several(self, ids: Ints, counts: Ints, cache: Cache) -> Floats:
        rows, width = ids.shape
        call = _Call(rows, width, self._vocabulary)
        call.ids[:] = ids
        call.last[:, 0] = counts - 1
        call.seen[:] = cache.lengths + counts - 1
        call.total[0] = cache.lengths[0] + width
        self._session.run_with_iobinding(self._binding(call, cache))
        return call.logits

    def _binding(self, call: _Call, cache: Cache) -> Any:
        binding = self._session.io_binding()
        for name, array in call.inputs.items():
            _bind(binding.bind_input, name, array)
        _bind(binding.bind_output, "logits", call.logits)
        for part, arrays in (("key", cache.keys), ("value", cache.values)):
            for layer, array in enumerate(arrays):
                _bind(binding.bind_input, f"past_key_values.{layer}.{part}", array)
                _bind(binding.bind_output, f"present.{layer}.{part}", array)
        return binding


class _Call:
    """The memory of a call's inputs and of its logits."""

    def __init__(self, rows: int, width: int, vocabulary: int) -> None:
        self.ids = np.zeros((rows, width), np.int64)
        self.last = np.zeros((rows, 1), np.int64)
        self.seen = np.zeros(rows, np.int32)
        self.total = np.zeros(1, np.int32)
        self.logits = np.empty((rows, vocabulary), np.float32)

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "input_ids": self.ids, "last": self.last, "seen": self.seen, "total": self.total,
        }  # fmt: skip


def _bind(bind: Any, name: str, array: Any) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _zeros(shape: tuple[int, ...]) -> Floats:
    return np.zeros(shape, np.float32)
