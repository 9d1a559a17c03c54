"""A Llama as an ONNX graph, written node by node, so that every weight is stored once.

Names are those that transformers.js reads: `input_ids` (B, T), `attention_mask` (B, P + T),
`position_ids` (B, T), `past_key_values.N.key` and `.value` (B, heads, P, size) in; `logits`
(B, T, vocabulary) and `present.N.key`, `.value` out. B, T and P are free; rows may be padded on
the left. Tracing the torch model gives the same graph in half a minute and stores a tied
embedding twice once it is quantised; here a weight is a `Matrix` that knows how it is multiplied
and how its rows are read, and both use the one stored copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from stentor.export.format import Floats

OPSET = 18  # the newest that transformers.js, onnxruntime-web and older runtimes share
_FAR = -1e9  # added to what must not be seen; infinities would make padded rows not a number


class Graph:
    """Nodes and stored tensors as they are added."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self.nodes: list[Any] = []
        self.stored: dict[str, Any] = {}
        self.contrib = False

    def store(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """A stored tensor; the same name again is the same tensor."""
        if name not in self.stored:
            self.stored[name] = self._numpy.from_array(np.ascontiguousarray(values), name)
        return name

    def ints(self, *values: int) -> str:
        """A stored list of whole numbers."""
        return self.store("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def __call__(self, kind: str, *inputs: str, out: str | None = None, **settings: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.many(kind, inputs, [out or f"{kind.lower()}_{len(self.nodes)}"], **settings)[0]

    def many(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **settings: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        self.contrib = self.contrib or settings.get("domain") == "com.microsoft"
        name = f"{kind}_{len(self.nodes)}"
        node = self._helper.make_node(kind, list(inputs), list(outputs), name=name, **settings)
        self.nodes.append(node)
        return list(outputs)


class Matrix(Protocol):
    """A stored weight (out, in)."""

    def times(self, graph: Graph, x: str, *, out: str | None = None) -> str:
        """x (…, in) times the weight's transpose: (…, out)."""

    def rows(self, graph: Graph, ids: str) -> str:
        """Its rows at ids (B, T): (B, T, in)."""


class Plain:
    """A weight as it is, in fp32 or, to halve the file, in fp16 and widened when loaded."""

    def __init__(self, name: str, values: Floats, *, half: bool) -> None:
        self._name, self._values, self._half = name, values, half

    def _stored(self, graph: Graph) -> str:
        if not self._half:
            return graph.store(self._name, self._values)
        stored = graph.store(self._name, self._values.astype(np.float16))
        return once(graph, "Cast", stored, to=1)

    def times(self, graph: Graph, x: str, *, out: str | None = None) -> str:
        turned = once(graph, "Transpose", self._stored(graph), perm=[1, 0])
        return graph("MatMul", x, turned, out=out)

    def rows(self, graph: Graph, ids: str) -> str:
        return graph("Gather", self._stored(graph), ids, axis=0)


def once(graph: Graph, kind: str, name: str, **settings: Any) -> str:
    """A node over a stored tensor that several others share."""
    out = f"{name}.{kind.lower()}"
    if not any(out in node.output for node in graph.nodes):
        graph(kind, name, out=out, **settings)
    return out


def build(
    config: Any, weights: Mapping[str, Matrix], vectors: Mapping[str, Floats], rope: Floats, *,
    keep: bool = False,
) -> Any:  # fmt: skip
    """The model as ONNX; `rope` (2, positions, size) holds cosines and sines.

    `keep` adds the input `num_logits_to_keep`, as transformers.js calls it: logits of so many
    last places, of all when it is 0.
    """
    from onnx import TensorProto, helper

    graph = Graph()
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    floats, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("input_ids", whole, ["batch", "new"]),
        helper.make_tensor_value_info("attention_mask", whole, ["batch", "total"]),
        helper.make_tensor_value_info("position_ids", whole, ["batch", "new"]),
    ]
    outputs = [
        helper.make_tensor_value_info(
            "logits", floats, ["batch", "asked" if keep else "new", config.vocab_size]
        )
    ]
    x = weights["embedding"].rows(graph, "input_ids")
    bias = _bias(graph)
    turns = [
        graph("Unsqueeze", graph("Gather", graph.store(n, t), "position_ids"), graph.ints(1))
        for n, t in zip(("cosines", "sines"), rope, strict=True)
    ]
    for layer in range(config.num_hidden_layers):
        for part in ("key", "value"):
            shape = ["batch", kv_heads, "past", size]
            past = f"past_key_values.{layer}.{part}"
            inputs.append(helper.make_tensor_value_info(past, floats, shape))
            shape = ["batch", kv_heads, "total", size]
            outputs.append(helper.make_tensor_value_info(f"present.{layer}.{part}", floats, shape))
        x = _layer(graph, layer, x, bias, turns, weights, vectors, (heads, kv_heads, size), config)
    if keep:
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", whole, []))
        start = graph("Unsqueeze", graph("Neg", "num_logits_to_keep"), graph.ints(0))
        x = graph("Slice", x, start, graph.ints(2**62), graph.ints(1))
    x = _norm(graph, x, "norm", vectors, config.rms_norm_eps)
    weights["head"].times(graph, x, out="logits")
    drawn = helper.make_graph(
        graph.nodes, "stentor", inputs, outputs, initializer=list(graph.stored.values())
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if graph.contrib:
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(drawn, opset_imports=opsets, ir_version=9, producer_name="stentor")


def _bias(graph: Graph) -> str:
    """(B, 1, T, P + T): 0 where a token is seen, far below where not."""
    total = graph("Shape", "attention_mask", start=1, end=2)
    new = graph("Shape", "input_ids", start=1, end=2)
    zero, one = (graph.store(f"scalar_{n}", np.array(n, np.int64)) for n in (0, 1))
    places = graph("Range", zero, graph("Squeeze", total), one)
    from_ = graph("Squeeze", graph("Sub", total, new))
    asking = graph("Range", from_, graph("Squeeze", total), one)
    earlier = graph("LessOrEqual", places, graph("Unsqueeze", asking, graph.ints(1)))  # (T, P + T)
    real = graph("Unsqueeze", graph("Cast", "attention_mask", to=9), graph.ints(1, 2))
    seen = graph("And", earlier, real)
    near = graph.store("near", np.array(0.0, np.float32))
    return graph("Where", seen, near, graph.store("far", np.array(_FAR, np.float32)))


def _norm(graph: Graph, x: str, name: str, vectors: Mapping[str, Floats], eps: float) -> str:
    squared = graph("Mul", x, x)
    mean = graph("ReduceMean", squared, graph.ints(-1), keepdims=1)
    stable = graph("Add", mean, graph.store("eps", np.array(eps, np.float32)))
    scaled = graph("Div", x, graph("Sqrt", stable))
    return graph("Mul", scaled, graph.store(name, vectors[name]))


def _layer(
    graph: Graph, layer: int, x: str, bias: str, turns: Sequence[str],
    weights: Mapping[str, Matrix], vectors: Mapping[str, Floats],
    shape: tuple[int, int, int], config: Any,
) -> str:  # fmt: skip
    heads, kv_heads, size = shape
    name = f"layers.{layer}"
    h = _norm(graph, x, f"{name}.norm1", vectors, config.rms_norm_eps)
    joined = weights[f"{name}.qkv"].times(graph, h)
    widths = graph.ints(heads * size, kv_heads * size, kv_heads * size)
    split = graph.many("Split", [joined, widths], [f"{name}.{p}" for p in "qkv"], axis=-1)
    q, k, v = (
        graph("Transpose", graph("Reshape", p, graph.ints(0, 0, n, size)), perm=[0, 2, 1, 3])
        for p, n in zip(split, (heads, kv_heads, kv_heads), strict=True)
    )
    q, k = _turned(graph, q, turns, size), _turned(graph, k, turns, size)
    past = f"past_key_values.{layer}"
    k = graph("Concat", f"{past}.key", k, axis=2, out=f"present.{layer}.key")
    v = graph("Concat", f"{past}.value", v, axis=2, out=f"present.{layer}.value")
    if heads != kv_heads:  # each key and value serves a group of queries
        k, v = (_repeated(graph, p, heads // kv_heads, heads, size) for p in (k, v))
    scale = graph.store("scale", np.array(size**-0.5, np.float32))
    scores = graph("MatMul", graph("Mul", q, scale), graph("Transpose", k, perm=[0, 1, 3, 2]))
    shares = graph("Softmax", graph("Add", scores, bias), axis=-1)
    mixed = graph("Transpose", graph("MatMul", shares, v), perm=[0, 2, 1, 3])
    mixed = graph("Reshape", mixed, graph.ints(0, 0, heads * size))
    x = graph("Add", x, weights[f"{name}.out"].times(graph, mixed))
    h = _norm(graph, x, f"{name}.norm2", vectors, config.rms_norm_eps)
    both = weights[f"{name}.gate_up"].times(graph, h)
    half = graph.ints(config.intermediate_size, config.intermediate_size)
    gate, up = graph.many("Split", [both, half], [f"{name}.gate", f"{name}.up"], axis=-1)
    active = graph("Mul", graph("Mul", gate, graph("Sigmoid", gate)), up)
    return graph("Add", x, weights[f"{name}.down"].times(graph, active))


def _turned(graph: Graph, x: str, turns: Sequence[str], size: int) -> str:
    """Rotary positions on x (B, heads, T, size), in transformers' order of halves."""
    outs = [f"{x}.first", f"{x}.second"]
    first, second = graph.many("Split", [x, graph.ints(size // 2, size // 2)], outs, axis=-1)
    swapped = graph("Concat", graph("Neg", second), first, axis=-1)
    return graph("Add", graph("Mul", x, turns[0]), graph("Mul", swapped, turns[1]))


def _repeated(graph: Graph, x: str, times: int, heads: int, size: int) -> str:
    """(B, kv_heads, S, size) → (B, heads, S, size), each head `times` over."""
    wide = graph("Unsqueeze", x, graph.ints(2))
    joined = graph("Concat", *[wide] * times, axis=2)
    return graph("Reshape", joined, graph.ints(0, heads, -1, size))
