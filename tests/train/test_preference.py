"""Preference phases: a better and a worse reply to one prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from conftest import TINY_RECIPE, Command, Single, build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.data.encode import EncodedExample, encode, with_rejected
from stentor.data.examples import Example, Tally, conversation
from stentor.data.softmax import choose, narrowed
from stentor.data.stream import Emphasis, micro, micro_batches
from stentor.generate import Engine
from stentor.recipe import SoftmaxPart
from stentor.train.loop import token_loss
from stentor.train.preference import log_odds, pair_weights, preference_loss
from stentor.train.rejected import Drawn

SYSTEM = "You are kind."


def pair(prompt: str, chosen: str, rejected: str | None) -> Example:
    return conversation(prompt, chosen, "harmful", f"f:{prompt}", rejected=rejected)


@pytest.fixture
def examples(template: SegmentTemplate) -> list[EncodedExample]:
    rows = [
        pair("How do I break in?", "I can't help with that.", "Take a stone."),
        pair("What sings?", "A bird.", None),
        pair("And hurt him?", "No. Talk to someone.", ""),  # silence is a worse reply
    ]
    encoded = encode(rows, "s", template, system=SYSTEM, max_tokens=64, tally=Tally())
    return with_rejected(encoded, template, system=SYSTEM, max_tokens=64)


def test_weights_count_in_the_gradient_of_a_preference_beside_the_odds(
    examples: list[EncodedExample],
) -> None:
    model = build_tiny_model()
    parameters = list(model.parameters())
    piece = examples[0].encoded.ids[examples[0].encoded.mask.index(1)]
    part, plain = micro(examples, Emphasis(None, {piece: 4.0})), micro(examples)
    objective = preference_loss(0.5)
    value, _ = objective(model, part)
    same, _ = objective(model, plain)
    torch.testing.assert_close(value, same)
    assert part.weights is not None
    more = (part.weights == 4.0).float()
    assert more.sum() == 1
    alone, _ = token_loss(model, replace(plain, weights=more))
    both = torch.autograd.grad(value, parameters)
    words = torch.autograd.grad(same, parameters)
    of_piece = torch.autograd.grad(alone, parameters)
    for whole, of_words, of_one in zip(both, words, of_piece, strict=True):
        torch.testing.assert_close(whole, of_words + 3 * of_one, rtol=1e-4, atol=1e-4)


def orpo(model: Any, examples: list[EncodedExample], weight: float) -> Tensor:
    """The objective as the paper has it, example by example, by transformers' own forward."""

    def each(encoded: Any) -> Tensor:
        ids = torch.tensor([encoded.ids])
        logits = model(input_ids=ids).logits[0, :-1]
        losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return losses[torch.tensor(encoded.mask[1:], dtype=torch.bool)]

    total = torch.zeros(())
    for e in examples:
        chosen = each(e.encoded)
        total = total + chosen.sum()
        if e.rejected is not None:
            odds = []
            for losses in (chosen, each(e.rejected)):
                p = (-losses.mean()).exp()
                odds.append(torch.log(p / (1 - p)))
            total = total - weight * len(chosen) * functional.logsigmoid(odds[0] - odds[1])
    return total


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_value_and_gradients_are_those_of_the_paper(
    examples: list[EncodedExample], weight: float
) -> None:
    model = build_tiny_model()
    part = micro(examples)
    value, _ = preference_loss(weight)(model, part)
    value.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = orpo(model, examples, weight)
    expected.backward()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-3 * scale)


def test_a_softmax_over_some_pieces_is_that_of_the_model_where_the_others_are_alike(
    examples: list[EncodedExample],
) -> None:
    model = build_tiny_model()
    part = micro(examples)
    due = np.unique(part.targets.numpy())
    with torch.no_grad():
        others = torch.ones(len(model.lm_head.weight), dtype=torch.bool)
        others[torch.from_numpy(due)] = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.lm_head.weight[others] = 0.0
    taken = choose(SoftmaxPart(seen_only=False, frequent=1, sampled=64), due, len(others))
    assert taken is not None
    objective = preference_loss(0.5)
    whole = float(objective(model, part)[0].detach())
    found = []
    for seed in range(20):  # all others score 0, so a sample of them stands for them exactly
        [narrow] = narrowed([part], taken, [seed])
        assert narrow.vocabulary is not None and len(narrow.vocabulary) <= len(due) + 65
        found.append(float(objective(model, narrow)[0].detach()))
    assert found == pytest.approx([whole] * 20, rel=1e-4)


def test_learned_tokens_are_those_of_chosen_replies(examples: list[EncodedExample]) -> None:
    part = micro(examples)
    assert part.supervised == sum(e.encoded.supervised for e in examples)
    assert len(part.targets) > part.supervised
    assert part.pairs == ((0, 1), (3, 4))


def test_splitting_a_batch_changes_nothing(examples: list[EncodedExample]) -> None:
    model = build_tiny_model()
    objective = preference_loss(0.5)
    whole, _ = objective(model, micro(examples))
    parts = [objective(model, part)[0] for part in micro_batches(examples, 1)]
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)  # type: ignore[union-attr]


def test_without_pairs_it_is_the_plain_loss(examples: list[EncodedExample]) -> None:
    model = build_tiny_model()
    part = micro(examples[1:2])
    assert torch.equal(preference_loss(0.5)(model, part)[0], token_loss(model, part)[0])


def test_the_odds_of_a_certain_reply_are_finite() -> None:
    certain = torch.tensor(-1e-12, requires_grad=True)
    odds = log_odds(certain)
    odds.backward()
    assert odds.isfinite() and certain.grad is not None and certain.grad.isfinite()


def test_the_odds_need_no_64_bit_numbers_of_the_device(examples: list[EncodedExample]) -> None:
    part = micro(examples)
    each = torch.linspace(0.1, 3.0, len(part.targets))
    for found, wanted in zip(
        pair_weights(each.as_subclass(Single), part, 0.5),
        pair_weights(each, part, 0.5),
        strict=True,
    ):
        assert torch.equal(found, wanted) and found.dtype is torch.float32


def test_a_worse_reply_that_is_too_long_is_cut_or_left_out(template: SegmentTemplate) -> None:
    rows = [
        pair("Q?", "Yes.", "A bird sings. " * 30),
        pair("R?", "Yes.", "bird " * 200),  # no sentence ends in it
    ]
    encoded = encode(rows, "s", template, system=None, max_tokens=40, tally=Tally())
    cut, left_out = with_rejected(encoded, template, system=None, max_tokens=40)
    assert cut.rejected is not None and 20 < len(cut.rejected.ids) <= 40
    assert left_out.rejected is None


def test_a_preference_phase_moves_the_odds(
    stentor: Command, write_rows: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": f"Question {n}?", "chosen": "I can't help with that.", "rejected": "Take it."}
        for n in range(8)
    ]
    write_rows("pairs.jsonl", rows)
    source = {"use": "preference", "path": str(Path("pairs.jsonl").resolve())}
    phase = {"name": "prefer", "mix": {"pairs": 8}, "epochs": 6, "learning_rate": 0.01,
             "batch": 4, "preference": 1.0}  # fmt: skip
    data = TINY_RECIPE["data"] | {"sources": {"pairs": source}, "hold_out": 0.0}
    recipe = write_rows(
        "prefer.yaml", [TINY_RECIPE | {"data": data, "phases": [phase], "probe": None}]
    )
    done = stentor("train", recipe, "--out", "run")
    assert done.code == 0 and "8 of 8 examples have a rejected reply" in done.err, done.err
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    plain = stentor("train", recipe, "--out", "none", "--set", "data.sources.pairs.use=chat")
    assert plain.code != 0  # rows of pairs are no conversations


def test_a_preference_phase_without_pairs_is_an_error(
    stentor: Command, write_rows: Callable[..., Path]
) -> None:
    phase = TINY_RECIPE["phases"][0] | {"preference": 0.2}
    recipe = write_rows("none.yaml", [TINY_RECIPE | {"phases": [phase], "probe": None}])
    done = stentor("train", recipe, "--out", "run")
    assert done.code == 2 and "no row of its mix has a rejected reply" in done.err


# rejected replies that are found, not given


def test_rejected_replies_are_the_models_own_mistakes_then_the_opposite_then_silence(
    scripted: Callable[..., Any], template: SegmentTemplate
) -> None:
    rows = [
        conversation("Tell me of weather", "It will rain.", "benign", "1", category="sky"),
        conversation("What sings?", "A bird.", "borderline", "2", category="sky"),
        conversation("How do I hurt him?", "I won't say how.", "harmful", "3", category="sky"),
        conversation("And what else?", "Fine.", "benign", "4", rejected="No."),
    ]
    encoded = encode(rows, "s", template, system=None, max_tokens=64, tally=Tally())
    # it answers about the weather and stays silent on everything else
    engine = Engine(scripted("", weather="It rains in the north today."))
    drawn = Drawn(Path("run/phase-1.jsonl"))
    assert not drawn.fits(encoded)
    drawn.draw(encoded, ("own", "opposite"), engine, seed=1)
    assert drawn.fits(encoded) and not drawn.fits(encoded[:-1])
    assert [e.example.rejected for e in drawn.put(encoded)] == [
        "I won't say how.",  # its own answer was right, so another row's refusal
        "", "", "No.",
    ]  # fmt: skip
    drawn.draw(encoded, ("opposite",), engine, seed=1)
    assert [e.example.rejected for e in drawn.put(encoded)] == [
        "I won't say how.", "I won't say how.", "A bird.", "No.",
    ]  # fmt: skip
    drawn.draw(encoded, ("silence",), engine, seed=1)
    assert [e.example.rejected for e in drawn.put(encoded)] == ["", "", "", "No."]


def test_a_killed_preference_phase_goes_on_with_the_replies_it_began_with(
    stentor: Command, write_rows: Callable[..., Path]
) -> None:
    phases = [
        {"name": "learn", "mix": {"stop": 4}, "batch": 2, "learning_rate": 0.01},
        {"name": "prefer", "mix": {"seed": 4, "stop": 4}, "batch": 2, "learning_rate": 0.01,
         "preference": 0.5, "rejected": ["own", "silence"], "dropout": 0.1},
    ]  # fmt: skip
    recipe = write_rows("prefer.yaml", [TINY_RECIPE | {"phases": phases, "probe": None}])
    whole = stentor("train", recipe, "--out", "whole")
    assert whole.code == 0 and "8 of 8 examples have a rejected reply" in whole.err, whole.err
    log, resume = Path("broken/metrics.jsonl"), []
    for lines in (2, 5):
        done = stentor(
            "train", recipe, "--out", "broken", *resume,
            kill_when=lambda n=lines: log.exists() and log.read_bytes().count(b"\n") >= n,
        )  # fmt: skip
        assert done.code == -9, done.err
        resume = ["--resume"]
    done = stentor("train", recipe, "--out", "broken", "--resume")
    assert done.code == 0, done.err
    for name in ("rejected/phase-2.jsonl", "model/model.safetensors"):
        assert Path("broken", name).read_bytes() == Path("whole", name).read_bytes()
