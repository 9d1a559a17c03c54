"""A model as a graph for decoding on ONNX Runtime.

Unlike the file that `stentor export` writes for everybody, it is for us alone: attention
writes into the caller's cache in place (`GroupQueryAttention` with one buffer for past and
present), the head is applied to the last token of each row only, and every matrix is stored as
its kernel wants it. `input_ids` (B, T), `last` (B,) the place of each row's last real token,
`seen` (B,) the tokens a row holds after this call less one, `total` the most of them, and
`past_key_values.N.key`, `.value` (B, heads, room, size) in; `logits` (B, V) and `present.N.key`,
`.value` out, to be bound to the same memory as the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stentor.errors import InputError
from stentor.export.onnx import BLOCK, stored, turns
from stentor.export.onnx_blocks import Blocks
from stentor.export.onnx_graph import Graph, Matrix
from stentor.generate.backend import Floats

_MICROSOFT = "com.microsoft"


class _Dense:
    """A weight in fp32: one copy where it is only multiplied, the same one where rows are read."""

    def __init__(self, name: str, values: Floats) -> None:
        self._name, self._values = name, values

    def times(self, graph: Graph, x: str, *, out: str | None = None) -> str:
        if self._name in graph.stored or out:  # the head: (B, in), and the rows may be read too
            return graph("Gemm", x, graph.store(self._name, self._values), out=out, transB=1)
        turned = graph.store(f"{self._name}.turned", self._values.T)
        return graph("MatMul", x, turned, out=out)

    def rows(self, graph: Graph, ids: str) -> str:
        return graph("Gather", graph.store(self._name, self._values), ids, axis=0)


class _Blocks(Blocks):
    """A weight in blocks whose rows are read by one operator, which browsers lack."""

    def rows(self, graph: Graph, ids: str) -> str:
        numbers, _ = self._stored(graph)
        scales = graph.store(f"{self._name}.grid", self._scales[..., None])
        found = graph(
            "GatherBlockQuantized", numbers, ids, scales, domain=_MICROSOFT,
            bits=self._bits, block_size=self._block, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        return graph("Reshape", found, graph.ints(0, 0, self._in))


def draw(model: Any, kind: str) -> Any:
    """The ONNX model."""
    config = model.config
    bits = {"int8": 8, "int4": 4}.get(kind)
    uneven = [n for n in (config.hidden_size, config.intermediate_size) if n % BLOCK]
    if bits and uneven:
        raise InputError(
            f"onnx:{kind}: rows of {uneven[0]} can't be cut into blocks of {BLOCK}; take onnx"
        )

    def matrix(name: str, values: Floats) -> Matrix:
        return _Blocks(name, values, bits=bits, block=BLOCK) if bits else _Dense(name, values)

    weights, vectors = stored(model, matrix)
    return _build(config, weights, vectors, turns(model))


def _build(
    config: Any, weights: Mapping[str, Matrix], vectors: Mapping[str, Floats], rope: Floats
) -> Any:
    from onnx import TensorProto, helper

    from stentor.export.onnx_graph import OPSET

    graph = Graph()
    whole, short = TensorProto.INT64, TensorProto.INT32
    inputs = [
        helper.make_tensor_value_info("input_ids", whole, ["batch", "new"]),
        helper.make_tensor_value_info("last", whole, ["batch", 1]),
        helper.make_tensor_value_info("seen", short, ["batch"]),
        helper.make_tensor_value_info("total", short, [1]),
    ]
    logits = ["batch", config.vocab_size]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)]
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    half = size // 2
    for name, table in zip(("cosines", "sines"), rope, strict=True):
        graph.store(name, table[:, :half])
    x, h = weights["embedding"].rows(graph, "input_ids"), ""
    for layer in range(config.num_hidden_layers):
        for part in ("key", "value"):
            for known, given in ((inputs, "past_key_values"), (outputs, "present")):
                shape = ["batch", kv_heads, "room", size]
                name = f"{given}.{layer}.{part}"
                known.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        x, h = _layer(graph, layer, x, h, weights, vectors, config)
    x, h = _norm(graph, x, h, "norm", vectors, config.rms_norm_eps)
    picked = graph("GatherND", h, "last", batch_dims=1)  # (B, hidden)
    weights["head"].times(graph, picked, out="logits")
    drawn = helper.make_graph(
        graph.nodes, "stentor", inputs, outputs, initializer=list(graph.stored.values())
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(drawn, opset_imports=opsets, ir_version=9, producer_name="stentor")


def _norm(
    graph: Graph, x: str, more: str, name: str, vectors: Mapping[str, Floats], eps: float
) -> tuple[str, str]:
    """`x` plus what the last block adds to it (nothing before the first), and the norm of that."""
    weight = graph.store(name, vectors[name])
    if not more:
        return x, graph("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=eps)
    outs = [f"{name}.out", "", "", f"{name}.sum"]
    graph.many(
        "SkipSimplifiedLayerNormalization", [x, more, weight], outs, domain=_MICROSOFT, epsilon=eps
    )
    return outs[3], outs[0]


def _layer(
    graph: Graph, layer: int, x: str, more: str,
    weights: Mapping[str, Matrix], vectors: Mapping[str, Floats], config: Any,
) -> tuple[str, str]:  # fmt: skip
    """The stream before the last addition, and what is still to be added to it."""
    name, past, present = f"layers.{layer}", f"past_key_values.{layer}", f"present.{layer}"
    x, h = _norm(graph, x, more, f"{name}.norm1", vectors, config.rms_norm_eps)
    joined = weights[f"{name}.qkv"].times(graph, h)
    mixed, *_ = graph.many(
        "GroupQueryAttention",
        [joined, "", "", f"{past}.key", f"{past}.value", "seen", "total", "cosines", "sines"],
        [f"{name}.mixed", f"{present}.key", f"{present}.value"],
        domain=_MICROSOFT, do_rotary=1,
        num_heads=config.num_attention_heads, kv_num_heads=config.num_key_value_heads,
    )  # fmt: skip
    added = weights[f"{name}.out"].times(graph, mixed)
    x, h = _norm(graph, x, added, f"{name}.norm2", vectors, config.rms_norm_eps)
    both = weights[f"{name}.gate_up"].times(graph, h)
    half = graph.ints(config.intermediate_size, config.intermediate_size)
    gate, up = graph.many("Split", [both, half], [f"{name}.gate", f"{name}.up"], axis=-1)
    active = graph("Mul", graph("QuickGelu", gate, domain=_MICROSOFT, alpha=1.0), up)
    return x, weights[f"{name}.down"].times(graph, active)
