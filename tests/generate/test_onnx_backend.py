"""ONNX Runtime must give the logits of torch, whatever comes and goes in its cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.errors import InputError, ModelError, ParityError
from stentor.export.onnx_blocks import quantise
from stentor.generate import Decoding, Engine, copies
from stentor.generate.backend import Backend, Floats, Ints
from stentor.generate.torch_backend import TorchBackend
from stentor.model.load import LoadedModel

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from stentor.generate.onnx_backend import OnnxBackend, threads

LENGTHS = (3, 40, 1, 17)


def model_with(**changes: Any) -> LlamaForCausalLM:
    """The tiny model, as wide as blocks of 32 need it, with sharp weights."""
    torch.manual_seed(1)
    config = LlamaConfig(**(build_tiny_model().config.to_dict() | {"intermediate_size": 64}))
    for name, value in changes.items():
        setattr(config, name, value)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
    return model


Opened = Callable[..., tuple[Backend, Backend]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The reference and the copy of one model."""
    folder = tmp_path_factory.mktemp("copies")

    def opened(model: Any, kind: str = "fp32") -> tuple[Backend, Backend]:
        file = folder / f"{len(list(folder.iterdir()))}.onnx"
        copies.make(model, kind, file)
        return TorchBackend(model), OnnxBackend(file, kind, 512)

    return opened


def rows_of(lengths: tuple[int, ...], seed: int = 0) -> tuple[Ints, Ints]:
    """Ids padded on the right with what must not matter, and how many are real."""
    draw = np.random.default_rng(seed)
    return draw.integers(20, 32_768, (len(lengths), max(lengths))), np.array(lengths)


def close(ours: Floats, theirs: Floats) -> None:
    spread = float(theirs.std(axis=-1).min())
    np.testing.assert_allclose(ours / spread, theirs / spread, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rms_norm_eps": 0.1, "tie_word_embeddings": False},
    ],
    ids=["multi-head", "grouped", "scaled rope", "untied"],
)
def test_logits_equal_those_of_torch_whoever_comes_and_goes(
    opened: Opened, changes: dict[str, Any]
) -> None:
    reference, backend = opened(model_with(**changes))
    caches = [b.new_cache(4, 64) for b in (reference, backend)]
    pairs = list(zip((reference, backend), caches, strict=True))

    def same(ids: Ints, counts: Ints) -> None:
        theirs, ours = (b.forward(ids, counts, c).copy() for b, c in pairs)
        close(ours, theirs)

    same(*rows_of(LENGTHS))
    for seed in (1, 2):
        same(*rows_of((1, 1, 1, 1), seed))
    same(*rows_of((4, 1, 9, 2), 3))  # several tokens after others, as many as it likes
    assert {tuple(c.keep([1, 3])) for c in caches} == {(3, 1)}
    same(*rows_of((1, 1), 4))
    for backend_, cache in pairs:  # two rows that begin with the same prefix, one of them longer
        prefix = backend_.new_cache(1, 21)
        backend_.forward(*rows_of((21,), 5), prefix)
        added = cache.add(2, 90)
        added.start_from(prefix)
        backend_.forward(*rows_of((5, 8), 6), added)
    for seed in range(7, 10):
        same(*rows_of((1, 1, 1, 1), seed))
    assert caches[0].lengths.tolist() == caches[1].lengths.tolist()


def test_a_row_may_fill_the_whole_window(opened: Opened) -> None:
    reference, backend = opened(model_with())
    found = []
    for one in (reference, backend):
        cache = one.new_cache(2, 512)
        one.forward(*rows_of((511, 5)), cache)
        found.append(one.forward(*rows_of((1, 1), 1), cache).copy())
    close(found[1], found[0])


@pytest.mark.parametrize(
    "decoding",
    [Decoding.greedy(12), Decoding(0.0, 1.0, 1.3, 12), Decoding(0.8, 0.9, 1.2, 12)],
    ids=["greedy", "penalised", "sampled"],
)
def test_replies_are_those_of_torch(
    opened: Opened, tokenizer: Any, template: SegmentTemplate, decoding: Decoding
) -> None:
    model = model_with()
    loaded = LoadedModel(model, tokenizer, template, "test", {"system": "Be brief, and be kind."})
    asked = [[{"role": "user", "content": "Why is it so? " * n}] for n in range(1, 6)]
    theirs, ours = (
        Engine(loaded, batch=3, backend=backend).replies(asked, decoding)
        for backend in opened(model)
    )
    assert ours == theirs


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
def test_fewer_bits_are_the_model_with_rounded_weights(
    opened: Opened, kind: str, bits: int
) -> None:
    model = model_with()
    _, backend = opened(model, kind)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                numbers, scales = quantise(parameter.numpy(), bits, 32)
                signed = numbers.astype(np.float32) - 2 ** (bits - 1)
                rounded = (signed * scales[..., None]).reshape(parameter.shape)
                parameter.copy_(torch.from_numpy(rounded))
    found = []
    for one in (TorchBackend(model), backend):
        cache = one.new_cache(4, 64)
        first = one.forward(*rows_of(LENGTHS), cache).copy()
        found.append(np.stack([first, one.forward(*rows_of((1, 1, 1, 1), 1), cache)]))
    error = float(np.sqrt(((found[1] - found[0]) ** 2).mean()) / found[0].std())
    assert error < 0.05  # the runtime rounds what it multiplies them with to 8 bit
    assert kind in backend.name and backend.precision == kind


def test_rows_that_do_not_fall_into_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"onnx:int8: rows of 48 can't be cut into blocks of 32"):
        copies.make(model_with(intermediate_size=48), "int8", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"x\.onnx: ONNX Runtime can't read this copy"):
        OnnxBackend(file, "fp32", 512)


def test_another_model_is_told_from_a_copy(opened: Opened) -> None:
    reference, backend = opened(model_with())
    copies.check(backend, reference)
    other = model_with()
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[3] += 0.5
    with pytest.raises(ParityError, match=r"not the same model .* take --backend torch"):
        copies.check(backend, TorchBackend(other))


def test_copies_unused_for_longest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_MOST", 0)
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    copies.make(model_with(), "fp32", first)
    copies.make(model_with(), "fp32", second)
    assert [f.name for f in tmp_path.iterdir()] == ["b.onnx"]


def test_threads_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads() >= 1
