"""`transformers` as the runtime of a folder: for `hf` and `bnb`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor.export.chat_files import FolderTokenizer
from stentor.export.format import Floats

_BATCH = 64


class TorchRuntime(FolderTokenizer):
    """A folder loaded as anybody loads it, in the precision it was saved in, on the CPU."""

    def __init__(self, folder: Path, threads: int, software: str = "") -> None:
        import torch
        import transformers

        from stentor.model.quiet import quiet

        super().__init__(folder)
        if threads:
            torch.set_num_threads(threads)
        self.name = f"transformers {transformers.__version__}{software}"
        with quiet():
            self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", trust_remote_code=False, device_map="cpu"
            ).eval()

    def logits(self, ids: Sequence[int]) -> Floats:
        import torch

        with torch.no_grad():
            found = self._model(input_ids=torch.tensor([list(ids)])).logits[0]
        return np.asarray(found.float().numpy())

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        import torch

        found = []
        for start in range(0, len(prompts), _BATCH):
            rows = prompts[start : start + _BATCH]
            longest = max(map(len, rows))
            ids = torch.full((len(rows), longest), self._pad)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(rows):
                ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
                mask[row, longest - len(prompt) :] = 1
            with torch.no_grad():
                out = self._model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=count, do_sample=False,
                    temperature=None, top_p=None, repetition_penalty=1.0, pad_token_id=self._pad,
                )  # fmt: skip
            found += [self._ended(row) for row in out[:, longest:].tolist()]
        return found

    @property
    def _pad(self) -> int:
        settings = self._model.generation_config
        stops = self._stops
        return int(settings.pad_token_id if settings.pad_token_id is not None else stops[0])

    @property
    def _stops(self) -> list[int]:
        stops = self._model.generation_config.eos_token_id
        return list(stops) if isinstance(stops, list) else [stops]

    def _ended(self, row: list[int]) -> list[int]:
        """A reply up to its stop token: a batch goes on with padding until all have ended."""
        for place, token in enumerate(row):
            if token in self._stops:
                return row[: place + 1]
        return row

    def close(self) -> None:
        self._model = None
