"""Rows that join and leave a running batch get the tokens that they would get alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from conftest import build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.generate import Decoding, Engine
from stentor.generate.backend import Floats, Ints
from stentor.generate.running import Request, Running
from stentor.model.load import LoadedModel

SYSTEM = "You answer in one short sentence, and you never make anything up at all, please."
RULES = (
    Decoding.greedy(),
    Decoding(0.0, 1.0, 1.3),
    Decoding(0.6, 0.7, 1.2),
    Decoding(1.0, 1.0, 1.0),
)


@pytest.fixture(scope="module")
def engine(tokenizer: Any, template: SegmentTemplate) -> Engine:
    return Engine(LoadedModel(build_tiny_model(), tokenizer, template, "test", {}))


def requests_of(engine: Engine, count: int) -> list[Request]:
    return [
        engine.request(
            [{"role": "user", "content": f"Tell me about {n}, " + "and more " * (n % 5)}],
            RULES[n % 4].changed(max_new_tokens=2 + n % 9, seed=n),
            system=SYSTEM if n % 3 else "",
        )
        for n in range(count)
    ]


def alone(engine: Engine, request: Request) -> list[int]:
    return [drawn.token for drawn in engine.tokens([request])]


@pytest.mark.parametrize("seed", [1, 2])
def test_tokens_do_not_depend_on_who_comes_and_goes(engine: Engine, seed: int) -> None:
    """In random order, some at a time; every fifth leaves before its end."""
    draw = random.Random(seed)
    requests = requests_of(engine, 30)
    leaving = set(requests[::5])
    got: dict[Request, list[int]] = {request: [] for request in requests}
    ends: dict[Request, str | None] = {}
    waiting, batch = draw.sample(requests, len(requests)), engine.running()
    while waiting or batch:
        drawn = batch.step() if batch else []
        count = draw.randint(1, 4)
        now, waiting = waiting[:count], waiting[count:]
        if now:
            drawn += batch.join(now)
        for one in drawn:
            got[one.request].append(one.token)
            ends[one.request] = one.end
            if one.request in leaving and len(got[one.request]) == 2:
                batch.leave(one.request)
    for request in requests:
        expected = alone(engine, request)
        if request in leaving:
            assert got[request] == expected[:2]
        else:
            assert got[request] == expected and ends[request] == "length"


def test_leaving_twice_or_after_the_end_is_nothing(engine: Engine) -> None:
    first, second = requests_of(engine, 2)
    batch = engine.running()
    batch.join([first, second])
    batch.leave(first)
    batch.leave(first)
    tokens = [d.token for _ in range(2) for d in batch.step()]
    assert tokens == alone(engine, second)[1:] and len(batch) == 0
    batch.leave(second)


def test_the_cache_does_not_grow_once_it_was_full(engine: Engine) -> None:
    batch = engine.running()
    sizes = set()
    for turn in range(4):
        batch.join(requests_of(engine, 9 - turn))
        while batch:
            batch.step()
        sizes.add(batch._cache._keys.shape)
    assert len(sizes) == 1


def test_a_prefix_is_remembered_across_requests(engine: Engine) -> None:
    calls: list[int] = []
    forward = engine._backend.forward

    def counted(ids: Ints, *rest: Any) -> Floats:
        calls.append(ids.shape[1])
        return forward(ids, *rest)

    engine._backend.forward = counted  # type: ignore[method-assign, assignment]
    try:
        asked = [{"role": "user", "content": "Why?"}]
        system = SYSTEM + " Today at least."
        for _ in range(2):
            request = engine.request(asked, Decoding.greedy(1), system=system)
            engine.running().join([request])
    finally:
        engine._backend.forward = forward  # type: ignore[method-assign]
    whole = len(request.ids)
    assert calls == [request.lead, whole - request.lead, whole - request.lead]
    assert request.lead >= 16


def test_chances_are_the_models_own(engine: Engine) -> None:
    model = build_tiny_model()
    ids = engine.prompt_ids([{"role": "user", "content": "Why?"}])
    rule = Decoding(0.7, 0.9, 1.3, 4)
    tokens = list(engine.tokens([Request(ids, rule, 5, 0, 3)]))
    for place, drawn in enumerate(tokens):
        before = [*ids, *(d.token for d in tokens[:place])]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before])).logits[0, -1]
        logs = torch.log_softmax(logits, dim=-1)
        assert drawn.chances is not None
        assert drawn.chances.drawn == pytest.approx(float(logs[drawn.token]), abs=1e-3)
        best = logs.topk(3)
        assert [t for t, _ in drawn.chances.likeliest] == best.indices.tolist()


# --- text -------------------------------------------------------------------------------------


def spelled(engine: Engine, ids: Sequence[int], stops: Sequence[str] = ()) -> list[str]:
    spelling = engine.spelling(stops)
    return [*(spelling.add(token) for token in ids), spelling.end()]


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox   jumps over\n\n  the lazy dog; and then 🦉 flies. " * 12,
        "é漢字🦉" * 40, " " * 90, "a\n" * 60,
    ],
    ids=["words", "bytes", "spaces", "lines"],
)  # fmt: skip
def test_a_long_text_comes_out_as_if_it_were_decoded_at_once(
    engine: Engine, tokenizer: Any, template: SegmentTemplate, text: str
) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:500]
    assert "".join(spelled(engine, ids)) == template.text(ids)


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["fox"], "The quick brown "),
        (["brown fox jumps"], "The quick "),
        (["lazy", "fox ju"], "The quick brown "),
        (["ump"], "The quick brown fox j"),
        (["The"], ""),
        (["foxy"], "The quick brown fox jumps"),
        (["jumps!"], "The quick brown fox jumps"),
    ],
)
def test_nothing_from_a_stop_sequence_on_is_given_out(
    engine: Engine, tokenizer: Any, stops: list[str], text: str
) -> None:
    ids = tokenizer("The quick brown fox jumps", add_special_tokens=False)["input_ids"]
    assert "".join(spelled(engine, ids, stops)) == text


def test_text_that_cannot_begin_a_stop_sequence_is_not_held_back(
    engine: Engine, tokenizer: Any
) -> None:
    ids = tokenizer("It is over there", add_special_tokens=False)["input_ids"]
    assert spelled(engine, ids, [" over."]) == ["It", " is", "", " over there", ""]


def test_an_empty_batch_has_no_rows(engine: Engine) -> None:
    batch: Running = engine.running()
    assert len(batch) == 0 and not batch
