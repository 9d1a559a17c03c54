"""`litert`: a `.tflite` file for LiteRT (formerly TensorFlow Lite) on phones and small boards.

Google's converter traces the model with a cache of fixed size: signatures `prefill_32`,
`prefill_128` and `decode`. Those of prefill give no logits, only the cache, so they are proved by
what `decode` answers over a cache of theirs. The converter needs other versions of packages than
we do, so it runs in an environment of its own, which is made at the first need and reused.
Quantising is a short second step, so all types are made at once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import InputError, MissingExtra, ParityError
from stentor.export.chat_files import FolderTokenizer, write_model_folder
from stentor.export.environments import python_with
from stentor.export.format import Floats, Provenance, Runtime

CONVERTER = ("litert-torch==0.10.0",)
WINDOW = 512
_SCRIPT = Path(__file__).parent / "converters" / "litert_convert.py"
_made: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Source hash → folder with the files of every type, as long as this process lives."""


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """`NAME-KIND.tflite` with tokenizer and configuration."""
    _check_window(loaded)
    write_model_folder(loaded, folder, "f16", provenance, weights=False)
    file = folder / f"{provenance.name}-{kind}.tflite"
    shutil.copyfile(_converted(loaded, provenance) / f"{kind}.tflite", file)
    return [f"{file.name} holds {file.stat().st_size / 1e6:.1f} MB"]


def prepare(loaded: Any, provenance: Provenance) -> None:
    """The conversion that all types share, made now, so that it is booked on none of them."""
    _check_window(loaded)
    _converted(loaded, provenance)


def _check_window(loaded: Any) -> None:
    if loaded.window != WINDOW:
        raise InputError(f"litert: only a window of {WINDOW} can be written, not {loaded.window}")


def _converted(loaded: Any, provenance: Provenance) -> Path:
    """The folder with the files of every type."""
    key = provenance.source_sha256
    if key in _made:
        return Path(_made[key].name)
    python = python_with(CONVERTER, "the format litert")
    out = tempfile.TemporaryDirectory(prefix="stentor-litert-")
    source = Path(out.name) / "source"
    source.mkdir()
    write_model_folder(loaded, source, "f32", provenance)
    metadata = provenance.metadata() | {"licence": provenance.licence}
    call = [str(python), str(_SCRIPT), str(source), out.name, json.dumps(metadata)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        out.cleanup()
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ParityError(f"litert: the converter failed: {said[-1] if said else 'no word'}")
    _made[key] = out
    return Path(out.name)


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """ai-edge-litert, on the CPU."""
    return LiteRtRuntime(next(folder.glob("*.tflite")), threads)


class LiteRtRuntime(FolderTokenizer):
    """A file in LiteRT, one sequence: prompts by prefill as far as it goes, the rest by decode."""

    def __init__(self, file: Path, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingExtra("ai-edge-litert", "litert", "running a LiteRT copy") from None
        from importlib.metadata import version

        super().__init__(file.parent)
        self.name = f"LiteRT {version('ai-edge-litert')}"
        self._interpreter = Interpreter(str(file), num_threads=threads or None)
        self._decode = self._interpreter.get_signature_runner("decode")
        self._prefill = {
            int(name.removeprefix("prefill_")): self._interpreter.get_signature_runner(name)
            for name in self._interpreter.get_signature_list() if name.startswith("prefill_")
        }  # fmt: skip
        shapes = {n: d["shape"] for n, d in self._decode.get_input_details().items()}
        self._empty = {
            name: np.zeros(shape, np.float32)
            for name, shape in shapes.items() if name.startswith("kv_cache")
        }  # fmt: skip
        self._settings = json.loads(
            (file.parent / "generation_config.json").read_text(encoding="utf-8")
        )

    def _run(
        self, signature: Any, ids: Sequence[int], start: int, cache: dict[str, Any]
    ) -> dict[str, Any]:
        """What a signature gives for `ids`, the first of them at place `start`."""
        places = np.arange(start, start + len(ids), dtype=np.int32)
        seen = np.arange(WINDOW) <= places[:, None]
        return dict(
            signature(
                tokens=np.array([ids], np.int32), input_pos=places,
                mask=np.where(seen, np.float32(0), np.float32(-np.inf))[None, None], **cache,
            )
        )  # fmt: skip

    def _step(self, token: int, place: int, cache: dict[str, Any]) -> tuple[Floats, dict[str, Any]]:
        found = self._run(self._decode, [token], place, cache)
        logits: Floats = found.pop("logits").reshape(-1)
        return logits, found

    def _filled(self, ids: Sequence[int]) -> tuple[int, dict[str, Any]]:
        """How many of `ids` the signatures of prefill take, and the cache they make of them."""
        done, cache = 0, self._empty
        for length in sorted(self._prefill, reverse=True):
            while len(ids) - done >= length:
                chunk = ids[done : done + length]
                found = self._run(self._prefill[length], chunk, done, cache)
                cache = {name: found[name] for name in self._empty}
                done += length
        return done, cache

    def logits(self, ids: Sequence[int]) -> Floats:
        """By decode, which from each place that prefill reaches goes on over the cache it made.

        So the limits on what is read of held-out text hold for prefill too.
        """
        reached = {*self._prefill, sum(self._prefill)}  # alone, and one behind another
        cache, rows = self._empty, []
        for place, token in enumerate(ids):
            if place in reached:
                _, cache = self._filled(ids[:place])
            row, cache = self._step(token, place, cache)
            rows.append(row)
        return np.stack(rows)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [self._reply(prompt, count) for prompt in prompts]

    def _reply(self, prompt: Sequence[int], count: int) -> list[int]:
        stops = self._settings["eos_token_id"]
        ending = set(stops if isinstance(stops, list) else [stops])
        reply = list[int]()
        done, cache = self._filled(prompt[:-1])  # prefill gives no logits: the last one by decode
        for place in range(done, len(prompt)):
            logits, cache = self._step(prompt[place], place, cache)
        most = min(count, WINDOW - len(prompt))
        while len(reply) < most:
            reply.append(int(logits.argmax()))
            if reply[-1] in ending or len(reply) == most:
                break
            logits, cache = self._step(reply[-1], len(prompt) + len(reply) - 1, cache)
        return reply

    def close(self) -> None:
        del self._decode, self._prefill, self._interpreter
