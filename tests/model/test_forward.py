"""The lean forward pass equals that of `transformers`, whatever falls into one stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from conftest import build_tiny_model
from stentor.chat import Encoded
from stentor.data.batch import Micro
from stentor.data.encode import EncodedExample
from stentor.data.examples import Example
from stentor.data.stream import micro
from stentor.model import attention, forward
from stentor.model.adapters import attach, set_dropout
from stentor.model.forward import hidden_states
from stentor.model.head import head_loss
from stentor.model.layout import Span, lay_out
from stentor.recipe import AdapterPart
from stentor.train.loop import plain_token_loss, token_loss

Rows = Sequence[tuple[int | None, list[int]]]
"""Sequences of tokens, each with the place in the list of the prefix that it follows."""


def small_model(**changes: Any) -> LlamaForCausalLM:
    """A Llama with a small vocabulary, so that gradients in float64 are cheap."""
    torch.manual_seed(5)
    shape: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 6,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def tokens(length: int, seed: int, vocabulary: int = 97) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (length,), generator=generator).tolist()


def run(model: Any, rows: Rows) -> list[Tensor]:
    """The hidden states of each sequence of a stream."""
    spans, flat = [], []
    for prefix, ids in rows:
        spans.append(Span(len(flat), len(ids), prefix))
        flat += ids
    out = hidden_states(model, torch.tensor(flat), lay_out(spans))
    return list(out.split([len(ids) for _, ids in rows]))


def reference(model: Any, rows: Rows) -> list[Tensor]:
    """The same by `transformers`, a sequence at a time, prefixes spelled out."""
    found = []
    for prefix, ids in rows:
        before = [] if prefix is None else rows[prefix][1]
        whole = torch.tensor([[*before, *ids]])
        found.append(model.model(input_ids=whole).last_hidden_state[0, len(before) :])
    return found


SHAPES: dict[str, Rows] = {
    "one row": [(None, tokens(11, 1))],
    "one token": [(None, tokens(1, 1))],
    "dense rows": [(None, tokens(9, seed)) for seed in range(4)],
    "dense rows at the bucket's edge": [(None, tokens(32, seed)) for seed in range(3)],
    "ragged rows": [(None, tokens(n, n)) for n in (3, 40, 1, 32, 33, 64, 5, 7)],
    "the whole window": [(None, tokens(512, 1)), (None, tokens(3, 2))],
    "a shared prefix": [(None, tokens(20, 1)), *((0, tokens(n, n)) for n in (5, 1, 33, 5))],
    "a prefix of one token": [(None, tokens(1, 1)), (0, tokens(4, 2)), (0, tokens(6, 3))],
    "several prefixes": [
        (None, tokens(20, 1)), (0, tokens(5, 2)), (None, tokens(7, 3)), (2, tokens(5, 4)),
        (0, tokens(6, 5)), (None, tokens(5, 6)), (2, tokens(40, 7)),
    ],
    "a prefix that comes last": [(1, tokens(6, 1)), (None, tokens(9, 2))],
    "rows as long as their prefix": [(None, tokens(6, 1)), (0, tokens(6, 2)), (0, tokens(6, 3))],
}  # fmt: skip

MODELS: dict[str, dict[str, Any]] = {
    "multi-head": {},
    "grouped-query": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "scaled positions": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }
    },
}  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain operations that other devices than a CPU get, with padded groups."""
    for module in (attention, forward):
        monkeypatch.setattr(module, "by_hand", lambda x: False)


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES.keys())
def test_hidden_states_equal_those_of_transformers(rows: Rows) -> None:
    model = small_model()
    for ours, theirs in zip(run(model, rows), reference(model, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES.keys())
def test_hidden_states_equal_those_of_transformers_elsewhere(rows: Rows, elsewhere: None) -> None:
    model = small_model(num_key_value_heads=2)
    for ours, theirs in zip(run(model, rows), reference(model, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", ["dense rows", "several prefixes"])
def test_by_hand_and_elsewhere_gradients_are_the_same(
    shape: str, request: pytest.FixtureRequest
) -> None:
    model = small_model(num_key_value_heads=2).double()
    by_hand = gradients(model, run(model, SHAPES[shape]))
    request.getfixturevalue("elsewhere")
    assert relative(by_hand, gradients(model, run(model, SHAPES[shape]))) < 1e-9


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("shape", ["dense rows", "several prefixes"])
def test_kinds_of_llama_equal_those_of_transformers(shape: str, changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    for ours, theirs in zip(
        run(model, SHAPES[shape]), reference(model, SHAPES[shape]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_the_bundled_vocabulary_and_a_preset_like_shape_agree_too() -> None:
    model = build_tiny_model(heads=4, kv_heads=2)
    rows = [(None, tokens(n, n, 32_768)) for n in (5, 70, 12)]
    for ours, theirs in zip(run(model, rows), reference(model, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def gradients(model: Any, states: list[Tensor]) -> dict[str, Tensor]:
    """The gradients of a fixed random function of the states, for every trained parameter."""
    generator = torch.Generator().manual_seed(3)
    value = sum(
        (s * torch.randn(s.shape, generator=generator, dtype=torch.float64).to(s)).sum()
        for s in states
    )
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    assert found[0] is not None
    return {n: g for n, g in zip(trained, found, strict=True) if g is not None}


def relative(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm()) for n in a)


def spelled_out(rows: Rows) -> Rows:
    """The sequences with their prefixes written before them, prefixes themselves left out."""
    owners = {prefix for prefix, _ in rows}
    return [
        (None, [*([] if prefix is None else rows[prefix][1]), *ids])
        for number, (prefix, ids) in enumerate(rows)
        if number not in owners
    ]


PREFIXED = [name for name, rows in SHAPES.items() if any(p is not None for p, _ in rows)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("shape", PREFIXED)
def test_gradients_through_a_shared_prefix_equal_those_of_plain_rows(
    shape: str, kv_heads: int, dtype: torch.dtype, limit: float
) -> None:
    rows = SHAPES[shape]
    owners = {prefix for prefix, _ in rows}
    model = small_model(num_key_value_heads=kv_heads).to(dtype)
    shared = [s for n, s in enumerate(run(model, rows)) if n not in owners]
    plain = [s[-len(mine) :] for s, mine in zip(run(model, spelled_out(rows)), shared, strict=True)]
    for mine, theirs in zip(shared, plain, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < limit
    assert relative(gradients(model, shared), gradients(model, plain)) < limit


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """`transformers` rounds its norm to fp32 even in a float64 model; without that both agree."""
    monkeypatch.setattr(
        LlamaRMSNorm,
        "forward",
        lambda self, x: functional.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon),
    )


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}], ids=["mha", "gqa"])
@pytest.mark.parametrize("shape", ["dense rows", "ragged rows", "several prefixes"])
def test_values_and_gradients_equal_transformers_to_the_last_digits(
    shape: str, changes: dict[str, Any], exact_norm: None
) -> None:
    rows = SHAPES[shape]
    model = small_model(**changes).double()
    ours, theirs = run(model, rows), reference(model, rows)
    for mine, due in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, due, rtol=1e-9, atol=1e-11)
    assert relative(gradients(model, ours), gradients(model, theirs)) < 1e-9


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mixture_of_rows_and_prefixes_equals_transformers(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=7))
    free = data.draw(st.integers(1, len(lengths)))  # the first so many may serve as prefixes
    rows: list[tuple[int | None, list[int]]] = []
    for number, length in enumerate(lengths):
        options = [None, *range(free)] if number >= free else [None]
        rows.append((data.draw(st.sampled_from(options)), tokens(length, number)))
    for ours, theirs in zip(run(_MODEL, rows), reference(_MODEL, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=3e-5)


_MODEL = small_model(num_key_value_heads=2)


@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 40, 3)], ids=["dense", "ragged"])
def test_documents_of_one_stream_do_not_see_each_other(lengths: tuple[int, ...]) -> None:
    model = small_model().double()
    rows = [(None, tokens(n, n + i, 60)) for i, n in enumerate(lengths)]
    changed = [rows[0], (None, tokens(lengths[1], 99, 60)), rows[2]]
    before, after = run(model, rows), run(model, changed)
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


def test_no_gradient_flows_between_documents() -> None:
    model = small_model(tie_word_embeddings=False)
    first, second = [1, 2, 3, 4], [50, 51, 52, 53, 54]
    run(model, [(None, first), (None, second)])[0].pow(2).sum().backward()
    touched = model.model.embed_tokens.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched == first


def test_a_prefix_does_not_see_what_follows_it() -> None:
    rows: Rows = [(None, tokens(8, 1)), (0, tokens(5, 2))]
    model = small_model()
    alone = run(model, rows[:1])[0]
    torch.testing.assert_close(run(model, rows)[0], alone, rtol=1e-5, atol=1e-6)


def test_a_token_sees_only_what_comes_before_it() -> None:
    model = small_model().double()
    ids = tokens(12, 1)
    before = run(model, [(None, ids)])[0]
    after = run(model, [(None, [*ids[:7], (ids[7] + 1) % 97, *ids[8:]])])[0]
    torch.testing.assert_close(before[:7], after[:7], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[7], after[7])


def random_adapter(model: Any, **changes: Any) -> Any:
    adapted = attach(model, AdapterPart(rank=4, alpha=8, **changes), "base", seed=0)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted


@pytest.mark.parametrize("targets", [None, ("q_proj", "down_proj"), ("o_proj", "gate_proj")])
def test_an_adapter_takes_part(targets: tuple[str, ...] | None) -> None:
    changes = {"targets": targets} if targets else {}
    adapted = random_adapter(small_model(), **changes)
    rows = SHAPES["several prefixes"]
    plain = run(small_model(), rows)
    pairs = zip(run(adapted, rows), reference(adapted.get_base_model(), rows), strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
        assert not torch.allclose(ours, plain[number], atol=1e-2)


def test_gradients_of_an_adapter_equal_those_of_peft(exact_norm: None) -> None:
    adapted = random_adapter(small_model()).double()
    rows = SHAPES["ragged rows"]
    ours = gradients(adapted, run(adapted, rows))
    theirs = gradients(adapted, reference(adapted.get_base_model(), rows))
    assert len(ours) == 2 * 7 * 2  # A and B of seven projections in two layers, nothing else
    assert relative(ours, theirs) < 1e-9


SYSTEMS = {
    "no prefix": [0, 0, 0, 0],
    "one prefix": [9, 9, 9, 9],
    "several prefixes": [9, 14, 9, 14],
}


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "adapter"])
@pytest.mark.parametrize("systems", SYSTEMS)
def test_the_loss_and_every_gradient_equal_those_of_the_plain_forward(
    systems: str, adapted: bool, dtype: torch.dtype, limit: float, exact_norm: None
) -> None:
    """From the examples of a micro-batch to the gradients, the head and its loss included."""
    examples = []
    for number, (system, length) in enumerate(zip(SYSTEMS[systems], (5, 12, 7, 20), strict=True)):
        ids = (*tokens(system, system), *tokens(length, 40 + number))
        mask = (0,) * (system + 2) + (1,) * (length - 2)
        encoded = Encoded(ids, mask, system)
        examples.append(EncodedExample(encoded, "s", Example((), "benign", str(number))))
    part = micro(examples)
    assert len(part.ids) == sum({*SYSTEMS[systems]}) + 5 + 12 + 7 + 20  # each prefix once
    model = (random_adapter(small_model()) if adapted else small_model()).to(dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for loss in (token_loss, plain_token_loss):
        total, each = loss(model, part)
        assert each.dtype == total.dtype == dtype
        found.append((total.detach(), each, *torch.autograd.grad(total, trained)))
    for mine, due in zip(*found, strict=True):
        assert float((mine - due).norm() / due.norm()) < limit


def test_dropout_acts_in_training_alone() -> None:
    adapted = random_adapter(small_model())
    rows = SHAPES["ragged rows"]
    exact = torch.cat(run(adapted, rows))
    set_dropout(adapted, 0.5)
    assert not torch.equal(torch.cat(run(adapted.train(), rows)), exact)
    assert torch.equal(torch.cat(run(adapted.eval(), rows)), exact)


def test_autocast_to_bf16_stays_near_fp32_with_gradients_in_fp32() -> None:
    model = small_model()
    rows = SHAPES["several prefixes"]
    exact = torch.cat(run(model, rows))
    with torch.autocast("cpu", torch.bfloat16):
        states = run(model, rows)
    rounded = torch.cat(states)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).detach().norm() / exact.detach().norm()) < 0.05
    found = gradients(model, states)
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert relative(found, gradients(model, run(model, rows))) < 0.1


@pytest.mark.parametrize(("length", "kernel"), [(40, torch.float32), (600, torch.bfloat16)])
def test_under_autocast_short_sequences_attend_in_fp32(
    length: int, kernel: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For their small products the flash kernel is slower in bf16."""
    seen = set()

    def spied(q: Tensor, *rest: Any, **options: Any) -> Any:
        seen.add(q.dtype)
        return flash(q, *rest, **options)

    flash = attention._flash
    monkeypatch.setattr(attention, "_flash", spied)
    ids = torch.arange(length) % 50
    with torch.autocast("cpu", torch.bfloat16):
        out = hidden_states(small_model(), ids, lay_out([Span(0, length)]))
    assert seen == {kernel} and out.dtype is torch.float32


class Products(TorchDispatchMode):
    """Notes the shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[torch.Size, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.shapes.add(tuple(a.shape for a in args if isinstance(a, Tensor)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("halved", "more"), [(True, False), (False, True)])
def test_streams_of_other_lengths_make_new_shapes_of_products_in_fp32_alone(
    halved: bool, more: bool
) -> None:
    """In bf16 a kernel is compiled, and kept, for each."""
    model = small_model()
    seen = []
    for length, scored, pieces in ((70, 30, 90), (101, 41, 75), (128, 64, 97)):
        ids = torch.tensor(tokens(length, 1, 70))
        places = torch.arange(scored)
        part = Micro(
            ids, lay_out([Span(0, 20), Span(20, length - 20, 0)]), places, ids[1 : scored + 1],
            torch.arange(pieces),
        )  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16, enabled=halved), Products() as products:
            loss, each = token_loss(model, part)
            loss.backward()
        assert each.shape == (scored,)
        seen.append(products.shapes)
    assert (len(set.union(*seen)) > len(seen[0])) is more


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("left_out", [(0, 5), (), (127,)])
def test_the_places_that_are_wanted_are_those_that_come(
    halved: bool, left_out: tuple[int, ...]
) -> None:
    """Also where both they and the stream are filled up to one length, and in any order."""
    model, ids = small_model(), torch.tensor(tokens(128, 3))
    layout = lay_out([Span(0, 90), Span(90, 38)])
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1)).tolist()
    with torch.autocast("cpu", torch.bfloat16, enabled=halved):
        whole = hidden_states(model, ids, layout)
        for chosen in (range(128), order):
            places = torch.tensor([place for place in chosen if place not in left_out])
            some = hidden_states(model, ids, layout, places)
            assert torch.allclose(some, whole[places], atol=0.05 if halved else 1e-5)


def test_under_autocast_a_token_of_hardly_any_probability_has_the_loss_of_its_pieces_alone() -> (
    None
):
    """It is taken from the logits again, where no piece may count that only fills the shape up."""
    hidden = torch.tensor([[200.0, 0.0], [0.0, 1.0]]).requires_grad_()
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]).requires_grad_()
    targets = torch.tensor([2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        total, each = head_loss(hidden, weight, targets)
    assert torch.allclose(
        each, functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    )
    total.backward()
    assert hidden.grad is not None and hidden.grad.shape == (2, 2)


# --- the loss of the head ---


@pytest.fixture
def scored() -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """Makes hidden states (23, 16), a head (97, 16) and targets, the first two with gradients."""

    def make() -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(23, 16, generator=generator).requires_grad_()
        weight = torch.randn(97, 16, generator=generator).requires_grad_()
        return hidden, weight, torch.randint(97, (23,), generator=generator)

    return make


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 24, 256])
def test_head_loss_equals_cross_entropy_in_value_and_gradients(
    scored: Callable[[], tuple[Tensor, Tensor, Tensor]], chunk: int
) -> None:
    hidden, weight, targets = scored()
    total, each = head_loss(hidden, weight, targets, chunk=chunk)
    (total * 0.37).backward()
    hidden2, weight2, _ = scored()
    losses = functional.cross_entropy(hidden2 @ weight2.T, targets, reduction="none")
    (losses.sum() * 0.37).backward()
    torch.testing.assert_close(total, losses.sum())
    torch.testing.assert_close(each, losses)
    torch.testing.assert_close(hidden.grad, hidden2.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight.grad, weight2.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [7, 256])
@pytest.mark.parametrize("weighed", [False, True])
def test_unlikelihood_is_in_the_gradients_and_not_in_the_value(
    scored: Callable[[], tuple[Tensor, Tensor, Tensor]], chunk: int, weighed: bool
) -> None:
    hidden, weight, targets = scored()
    count = torch.arange(23) % 4
    unwanted = (targets[:, None] + torch.tensor([3, 11, 40])) % 97
    unwanted[torch.arange(3) >= count[:, None]] = -1
    weights = torch.linspace(0.5, 3, 23) if weighed else None
    total, each = head_loss(
        hidden, weight, targets, token_weights=weights, unwanted=unwanted, unlikelihood=0.7,
        chunk=chunk,
    )  # fmt: skip
    total.backward()
    hidden2, weight2, _ = scored()
    logits = hidden2 @ weight2.T
    losses = functional.cross_entropy(logits, targets, reduction="none")
    plain = (losses * (1.0 if weights is None else weights)).sum()
    p = logits.softmax(-1).gather(1, unwanted.clamp(min=0)).clamp(max=0.99)
    (plain - 0.7 * torch.log1p(-p)[unwanted >= 0].sum()).backward()
    torch.testing.assert_close(total, plain)
    torch.testing.assert_close(each, losses)
    torch.testing.assert_close(hidden.grad, hidden2.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight.grad, weight2.grad, rtol=1e-4, atol=1e-5)


def test_under_autocast_the_head_multiplies_in_bf16_and_gives_gradients_in_fp32(
    scored: Callable[[], tuple[Tensor, Tensor, Tensor]],
) -> None:
    exact, rounded = scored(), scored()
    wanted, _ = head_loss(*exact, chunk=7)
    wanted.backward()
    with torch.autocast("cpu", torch.bfloat16):
        total, each = head_loss(*rounded, chunk=7)
    total.backward()
    assert total.dtype == each.dtype == torch.float32
    assert 0 < abs(float((total - wanted).detach())) < 0.01 * float(wanted.detach())
    for mine, theirs in zip(rounded[:2], exact[:2], strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert mine.grad.dtype == torch.float32
        assert float((mine.grad - theirs.grad).norm() / theirs.grad.norm()) < 0.02


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_head_loss_gives_gradients_only_where_they_are_wanted(
    scored: Callable[[], tuple[Tensor, Tensor, Tensor]], frozen: str
) -> None:
    """Under LoRA the tied head is frozen; in evaluation everything is."""
    full = scored()
    head_loss(*full)[0].backward()
    hidden, weight, targets = scored()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    total, _ = head_loss(hidden, weight, targets, chunk=5)
    assert total.requires_grad is (frozen != "both")
    if frozen != "both":
        total.backward()
    for mine, theirs in ((hidden, full[0]), (weight, full[1])):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        else:
            assert mine.grad is None


def test_head_loss_multiplies_no_gradients_where_none_is_asked_for() -> None:
    hidden, weight, targets = torch.randn(7, 16), torch.randn(97, 16), torch.arange(7)
    hidden.requires_grad_()
    products = []
    for learns in (False, True):
        with torch.set_grad_enabled(learns), FlopCounterMode(display=False) as counter:
            head_loss(hidden, weight, targets)
        products.append(counter.get_total_flops())
    assert products == [2 * 7 * 16 * 97, 4 * 7 * 16 * 97]


def test_head_loss_stays_finite_where_exponents_would_overflow() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    total, each = head_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
    assert each.tolist() == [0.0, 600.0]
    total.backward()
    assert hidden.grad.tolist() == [[0.0], [-2.0]]


def test_head_loss_of_nothing_is_zero() -> None:
    hidden = torch.empty(0, 16, requires_grad=True)
    total, each = head_loss(hidden, torch.randn(97, 16), torch.empty(0, dtype=torch.long))
    total.backward()
    assert total.item() == 0.0 and len(each) == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("subset", [False, True], ids=["all pieces", "some pieces"])
def test_token_loss_equals_cross_entropy_over_transformers_own_logits(
    tied: bool, subset: bool
) -> None:
    """Also where the softmax is taken over a part of the vocabulary."""
    model = small_model(tie_word_embeddings=tied)
    rows = SHAPES["a shared prefix"]
    flat = torch.tensor([i for _, ids in rows for i in ids])
    starts = torch.tensor([0, *(len(ids) for _, ids in rows)]).cumsum(0).tolist()
    spans = [Span(s, len(ids), prefix) for s, (prefix, ids) in zip(starts, rows, strict=False)]
    places = torch.tensor([2, 19, 20, 22, 25, 27, 60])
    vocabulary = torch.tensor([3, 5, 8, 60, 61, 90]) if subset else None
    offset = torch.tensor([0.0, 0, 1.5, 0, 2.5, 0]) if subset else None
    size = 6 if subset else 97
    targets = torch.randint(size, (7,), generator=torch.Generator().manual_seed(1))
    part = Micro(flat, lay_out(spans), places, targets, vocabulary, offset)

    total, each = token_loss(model, part)
    total.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    logits = model.lm_head(torch.cat(reference(model, rows)))[places]
    if vocabulary is not None:
        logits = logits[:, vocabulary] + offset
    losses = functional.cross_entropy(logits, targets, reduction="none")
    losses.sum().backward()
    torch.testing.assert_close(each, losses, rtol=1e-4, atol=1e-4)
    assert relative(found, {n: p.grad for n, p in model.named_parameters()}) < 1e-4
