"""transformers.js in Node.js as another runtime of a folder of `onnx`."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import MissingProgram, ParityError
from stentor.export.environments import node_modules
from stentor.export.format import Floats, Message, Runtime

PACKAGES = {"@huggingface/transformers": "4.3.1"}
_TYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int4": "q4", "int4e8": "q4"}
_SCRIPT = Path(__file__).parent / "node" / "transformers_js.mjs"


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """Node.js with transformers.js, which loads the folder as a page or a program would."""
    return TransformersJs(folder, _TYPES[kind])


class TransformersJs:
    """A Node.js process that is asked through its standard input, a JSON line each."""

    def __init__(self, folder: Path, dtype: str) -> None:
        node = shutil.which("node")
        if node is None:
            raise MissingProgram("transformers.js needs Node.js, which is not here")
        modules = node_modules(PACKAGES, "transformers.js")
        # it takes a name with a dot in front, as a copy has until it is delivered, for no model
        self._place = tempfile.TemporaryDirectory()
        link = Path(self._place.name) / "model"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        command = [node, str(_SCRIPT), str(modules), str(link), dtype]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self.name = f"transformers.js {self._ask(do='begin')['version']}"

    def _ask(self, **asked: Any) -> Any:
        """What the process answers; ParityError with what it complained of when it can't."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self._last_error()}
        if "error" in answer:
            raise ParityError(f"transformers.js can't run it: {answer['error']}")
        return answer["result"]

    def _last_error(self) -> str:
        self._process.wait(10)
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").splitlines()
        return next((line for line in said if "Error" in line), "Node.js ended")

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """As `apply_chat_template` of transformers.js gives them: control pieces are parsed."""
        return [int(i) for i in self._ask(do="ids", messages=list(messages))]

    def logits(self, ids: Sequence[int]) -> Floats:
        with tempfile.NamedTemporaryFile() as file:
            self._ask(do="logits", ids=list(ids), to=file.name)
            return np.fromfile(file.name, "<f4").reshape(len(ids), -1)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        found = self._ask(do="greedy", prompts=[list(p) for p in prompts], count=count)
        return [[int(i) for i in reply] for reply in found]

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._place.cleanup()
