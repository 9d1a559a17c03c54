"""One step of the reference must give the logits of the stock model, for rows of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import build_tiny_model
from stentor.generate.backend import Cache, Floats, Ints
from stentor.generate.torch_backend import TorchBackend

LENGTHS = (3, 40, 1, 17)


def rows_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(20, 32_768, (n,), generator=generator) for n in lengths]


def stock(model: Any, rows: list[Tensor]) -> Tensor:
    """The logits of transformers after each row, one row at a time, nothing cached."""
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None]).logits[:, -1] for row in rows])


def fill(decoder: TorchBackend, rows: list[Tensor], *, room: int = 64) -> tuple[Floats, Cache]:
    """Logits after the rows, all of them given in one padded call."""
    cache = decoder.new_cache(len(rows), room)
    return decoder.forward(*padded(rows), cache), cache


def padded(rows: list[Tensor]) -> tuple[Ints, Ints]:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=31_000)
    return ids.numpy(), np.array([len(row) for row in rows])


def close(ours: Floats, theirs: Tensor) -> None:
    """Equal to a ten-thousandth of how far the logits of a row lie apart."""
    spread = float(theirs.std(dim=-1).min())
    torch.testing.assert_close(torch.tensor(ours) / spread, theirs / spread, rtol=1e-4, atol=1e-4)


def tiny_with(**changes: Any) -> LlamaForCausalLM:
    """The tiny model with other settings; biases and all are far from zero."""
    torch.manual_seed(1)
    config = LlamaConfig(**(build_tiny_model().config.to_dict() | changes))
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: build_tiny_model(),
        lambda: build_tiny_model(heads=4, kv_heads=2),
        lambda: build_tiny_model(heads=4, kv_heads=1),
        lambda: tiny_with(attention_bias=True, mlp_bias=True),
        lambda: tiny_with(
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
        ),
        lambda: tiny_with(rms_norm_eps=0.1, tie_word_embeddings=False),
    ],
    ids=["multi-head", "grouped", "one key head", "biases", "scaled rope", "untied"],
)
def test_logits_of_ragged_rows_equal_those_of_transformers(make: Any) -> None:
    model = make()
    rows, decoder = rows_of(), TorchBackend(model)
    logits, cache = fill(decoder, rows)
    close(logits, stock(model, rows))
    for step in range(3):
        new = rows_of((1, 1, 1, 1), seed=10 + step)
        rows = [torch.cat([row, token]) for row, token in zip(rows, new, strict=True)]
        close(decoder.forward(*padded(new), cache), stock(model, rows))
    assert cache.lengths.tolist() == [n + 3 for n in LENGTHS]


def test_several_tokens_may_be_appended_to_a_cache_at_once(tiny_model: LlamaForCausalLM) -> None:
    rows, more, decoder = rows_of(), rows_of((4, 1, 9, 2), seed=1), TorchBackend(tiny_model)
    _, cache = fill(decoder, rows)
    logits = decoder.forward(*padded(more), cache)
    whole = [torch.cat([a, b]) for a, b in zip(rows, more, strict=True)]
    close(logits, stock(tiny_model, whole))


@pytest.mark.parametrize("alive", [[1, 3], [0, 1], [3], [0, 2, 3], [0, 1, 2, 3]])
def test_rows_that_are_kept_go_on_and_the_last_ones_fill_the_gaps(
    tiny_model: LlamaForCausalLM, alive: list[int]
) -> None:
    rows, decoder = rows_of(), TorchBackend(tiny_model)
    _, cache = fill(decoder, rows)
    order = cache.keep(alive)
    assert sorted(order) == alive
    assert all(row == place for place, row in enumerate(order) if row < len(alive))
    new = rows_of((1,) * len(alive), seed=5)
    logits = decoder.forward(*padded(new), cache)
    whole = [torch.cat([rows[row], more]) for row, more in zip(order, new, strict=True)]
    close(logits, stock(tiny_model, whole))
    assert cache.lengths.tolist() == [LENGTHS[row] + 1 for row in order]


def test_rows_that_start_from_a_prefix_see_it(tiny_model: LlamaForCausalLM) -> None:
    decoder = TorchBackend(tiny_model)
    (prefix,) = rows_of((21,), seed=3)
    rows = rows_of()
    _, kept = fill(decoder, [prefix], room=21)
    cache = decoder.new_cache(len(rows), 64)
    cache.start_from(kept)
    logits = decoder.forward(*padded(rows), cache)
    close(logits, stock(tiny_model, [torch.cat([prefix, row]) for row in rows]))
    assert kept.lengths.tolist() == [21]


def test_a_row_may_fill_the_whole_window(tiny_model: LlamaForCausalLM) -> None:
    decoder = TorchBackend(tiny_model)
    rows = rows_of((511, 5))
    _, cache = fill(decoder, rows, room=512)
    new = rows_of((1, 1), seed=1)
    logits = decoder.forward(*padded(new), cache)
    whole = [torch.cat([row, token]) for row, token in zip(rows, new, strict=True)]
    close(logits, stock(tiny_model, whole))


def test_half_precision_models_decode_in_half_precision(tiny_model: LlamaForCausalLM) -> None:
    model = tiny_model.to(torch.bfloat16)
    rows = rows_of()
    decoder = TorchBackend(model)
    logits, cache = fill(decoder, rows)
    assert cache.keys.dtype is torch.bfloat16 and "bf16" in decoder.name
    theirs = stock(model, rows).float()
    assert float((torch.tensor(logits) - theirs).abs().max()) < 0.25 * float(theirs.std())
