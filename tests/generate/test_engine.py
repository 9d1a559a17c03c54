"""Replies must be those of `transformers`, and depend on nothing but the request and its seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import build_scripted_model, build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.errors import DataError, InputError
from stentor.generate import Decoding, Engine
from stentor.generate.backend import Floats, Ints
from stentor.model.load import LoadedModel

GREEDY = Decoding.greedy(10)
PENALISED = Decoding(0.0, 1.0, 1.3, 10)
SAMPLED = Decoding(temperature=0.6, top_p=0.7, repetition_penalty=1.2, max_new_tokens=8)
SYSTEM = (
    "You are a helpful assistant who answers in one short sentence and never makes things up. "
    "Speak plainly, please."
)
PROMPTS = (
    "Hi",
    "Why is the sky blue?",
    "Tell me a story about a whale that wanted to live in the desert, and how it ended.",
    "Two words.",
    "List every planet of our solar system, with its moons, from the sun outwards; be brief.",
)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def make(tokenizer: Any, template: SegmentTemplate) -> Callable[..., Engine]:
    def make(model: Any = None, *, batch: int = 32, **generation: Any) -> Engine:
        loaded = LoadedModel(model or build_tiny_model(), tokenizer, template, "test", generation)
        return Engine(loaded, batch=batch)

    return make


@pytest.fixture(scope="module")
def engine(make: Callable[..., Engine]) -> Engine:
    """For tests that leave nothing behind in it."""
    return make()


def stock_reply(model: Any, ids: Sequence[int], decoding: Decoding) -> tuple[int, ...]:
    """What `generate` of transformers adds to a prompt."""
    out = model.generate(
        torch.tensor([list(ids)]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=decoding.max_new_tokens,
        repetition_penalty=decoding.repetition_penalty,
        eos_token_id=2,
        pad_token_id=16,
    )
    return tuple(out[0, len(ids) :].tolist())


class Counted:
    """Counts the tokens that a decoder is given, and does the same as before."""

    def __init__(self, engine: Engine) -> None:
        self.calls: list[tuple[int, int]] = []
        self._forward = engine._backend.forward
        engine._backend.forward = self  # type: ignore[method-assign]

    def __call__(self, ids: Ints, counts: Ints, cache: Any) -> Floats:
        self.calls.append((ids.shape[0], ids.shape[1]))
        return self._forward(ids, counts, cache)


@pytest.mark.parametrize("system", [None, SYSTEM], ids=["no system", "shared system"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
def test_greedy_replies_equal_those_of_transformers(
    make: Callable[..., Engine], heads: int, kv_heads: int, system: str | None
) -> None:
    model = build_tiny_model(heads=heads, kv_heads=kv_heads)
    engine = make(model)
    for decoding in (GREEDY, PENALISED):
        expected = [
            stock_reply(model, engine.prompt_ids(user(p), system), decoding) for p in PROMPTS
        ]
        replies = engine.replies([user(p) for p in PROMPTS], decoding, system=system)
        assert [r.ids for r in replies] == expected
        assert len({r.ids for r in replies}) == len(PROMPTS)


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
@pytest.mark.parametrize("decoding", [PENALISED, SAMPLED], ids=["greedy", "sampled"])
def test_replies_do_not_depend_on_the_size_of_a_batch(
    make: Callable[..., Engine], engine: Engine, decoding: Decoding, batch: int
) -> None:
    conversations = [user(p) for p in PROMPTS]
    whole = engine.replies(conversations, decoding, system=SYSTEM)
    assert make(batch=batch).replies(conversations, decoding, system=SYSTEM) == whole


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(len(PROMPTS))),
    count=st.integers(1, len(PROMPTS)),
    system=st.sampled_from(["", SYSTEM]),
)
def test_a_sampled_reply_depends_on_its_own_seed_alone(
    engine: Engine, order: list[int], count: int, system: str
) -> None:
    def ask(numbers: Sequence[int]) -> list[Any]:
        seeds = [1000 + n for n in numbers]
        return engine.replies(
            [user(PROMPTS[n]) for n in numbers], SAMPLED, system=system, seeds=seeds
        )

    chosen = order[:count]
    assert ask(chosen) == [ask([n])[0] for n in chosen]


def test_a_sampled_reply_is_the_same_beside_a_reply_that_is_far_less_certain(
    make: Callable[..., Engine], tokenizer: Any
) -> None:
    """Two candidates in one row, 300 in the other: what top-p looks at differs with company."""
    yes, no, lost, well = tokenizer.convert_tokens_to_ids(["▁yes", "▁no", "▁lost", "▁well"])
    pair, many = [yes, no], list(range(20_000, 20_300))
    engine = make(
        build_scripted_model({4: pair, yes: pair, no: pair, well: many}, keywords={lost: well})
    )
    decoding = Decoding(temperature=1.0, top_p=0.9, repetition_penalty=1.0, max_new_tokens=12)
    rows = [user("Should I go there or should I stay?"), user("I am lost, so where should I go?")]
    both = engine.replies(rows, decoding, seeds=[3, 4])
    assert set(both[0].ids) == set(pair) and len({*both[1].ids} & {*many}) > 3
    alone = [engine.replies([rows[n]], decoding, seeds=[3 + n])[0] for n in (0, 1)]
    assert both == alone


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: Engine) -> None:
    conversations = [user(p) for p in PROMPTS]
    first = engine.replies(conversations, SAMPLED)
    assert engine.replies(conversations, SAMPLED) == first
    other = engine.replies(conversations, SAMPLED.changed(seed=100))
    assert all(a.ids != b.ids for a, b in zip(first, other, strict=True))


def test_the_same_prompt_twice_gives_two_samples(engine: Engine) -> None:
    first, second = engine.replies([user("Hi"), user("Hi")], SAMPLED)
    assert first.ids != second.ids


def test_greedy_replies_depend_on_no_seed(engine: Engine) -> None:
    conversations = [user(p) for p in PROMPTS]
    assert engine.replies(conversations, GREEDY) == engine.replies(
        conversations, GREEDY.changed(seed=9)
    )


def test_no_conversations_give_no_replies(engine: Engine) -> None:
    assert engine.replies([], GREEDY) == []


def test_a_reply_that_ends_itself_says_stop_and_does_not_show_the_stop_token(
    scripted: Callable[..., LoadedModel],
) -> None:
    reply = Engine(scripted("It is.")).replies([user("Hi")], Decoding.greedy(40))[0]
    assert (reply.text, reply.finish_reason, reply.ids[-1]) == ("It is.", "stop", 2)
    assert reply.prompt_tokens == 4  # <s> [INST] Hi [/INST]


@pytest.mark.parametrize(("room", "reason"), [(2, "length"), (3, "length"), (4, "stop")])
def test_a_reply_cut_by_max_new_tokens_says_length(
    scripted: Callable[..., LoadedModel], room: int, reason: str
) -> None:
    """`It is.` has three tokens, and the stop token is the fourth."""
    reply = Engine(scripted("It is.")).replies([user("Hi")], Decoding.greedy(room))[0]
    assert (len(reply.ids), reply.finish_reason) == (room, reason)
    assert reply.text == ("It is" if room == 2 else "It is.")


def test_every_stop_token_of_a_foreign_model_ends_a_reply(
    scripted: Callable[..., LoadedModel], tokenizer: Any
) -> None:
    class TwoStops(SegmentTemplate):
        def __init__(self) -> None:
            super().__init__(tokenizer)
            self.stop_ids = frozenset({2, tokenizer.convert_tokens_to_ids("▁is")})

    loaded = scripted("It is.")
    engine = Engine(LoadedModel(loaded.model, tokenizer, TwoStops(), "test", {}))
    reply = engine.replies([user("Hi")], Decoding.greedy(40))[0]
    assert (reply.text, reply.finish_reason) == ("It", "stop")


@pytest.mark.parametrize("prompt_words", [1, 490])
def test_the_window_of_512_ends_a_reply_with_length(
    scripted: Callable[..., LoadedModel], prompt_words: int
) -> None:
    engine = Engine(scripted("ha", loop=True))
    conversation = user("ha " * prompt_words)
    reply = engine.replies([conversation], Decoding.greedy(10_200))[0]
    assert reply.finish_reason == "length"
    assert reply.prompt_tokens + len(reply.ids) == 512


def test_the_window_ends_each_row_of_a_ragged_batch_on_its_own(
    scripted: Callable[..., LoadedModel],
) -> None:
    engine = Engine(scripted("ha", loop=True))
    conversations = [user("Hi " * n) for n in (1, 500, 505)]
    replies = engine.replies(conversations, Decoding.greedy(10_200))
    assert [r.prompt_tokens + len(r.ids) for r in replies] == [512, 512, 512]


def of_size(engine: Engine, size: int) -> list[dict[str, str]]:
    words = size - engine.count(user(""), "")
    conversation = user(" ".join(["Hi"] * words))
    assert engine.count(conversation, "") == size
    return conversation


def test_a_prompt_of_511_tokens_gets_one_token(engine: Engine) -> None:
    (reply,) = engine.replies([of_size(engine, 511)], GREEDY, system="")
    assert (len(reply.ids), reply.finish_reason) == (1, "length")


@pytest.mark.parametrize("size", [512, 600])
def test_a_prompt_that_leaves_no_room_is_refused_with_its_size(engine: Engine, size: int) -> None:
    message = (
        f"the conversation has {size} tokens, but the model's window is 512 "
        "and a reply needs room; shorten it"
    )
    conversation = of_size(engine, size)
    with pytest.raises(InputError) as caught:
        engine.replies([user("Hi"), conversation], GREEDY, system="")
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        list(engine.stream(conversation, GREEDY, system=""))
    assert str(caught.value) == message


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a conversation has no messages"),
        ([*user("Hi"), {"role": "assistant", "content": "Ha"}], "the last message is the assist"),
    ],
)
def test_a_conversation_without_a_question_is_refused(
    engine: Engine, messages: list[dict[str, str]], message: str, system: str | None
) -> None:
    with pytest.raises(DataError, match=message):
        engine.replies([messages], GREEDY, system=system)


def test_the_system_prompt_is_the_models_own_unless_one_is_given(
    make: Callable[..., Engine], template: SegmentTemplate
) -> None:
    engine = make(system=SYSTEM)
    asked = user("Hi")

    def with_system(text: str) -> list[int]:
        return template.prompt([{"role": "system", "content": text}, *asked])

    assert engine.prompt_ids(asked) == with_system(SYSTEM)
    assert engine.prompt_ids(asked, "Be brief.") == with_system("Be brief.")
    assert engine.prompt_ids(asked, "") == template.prompt(asked)
    own = [{"role": "system", "content": "Sing."}, *asked]
    assert engine.prompt_ids(own) == engine.prompt_ids(own, "Be brief.") == with_system("Sing.")
    assert engine.count(asked) == len(with_system(SYSTEM))
    assert make().prompt_ids(asked) == template.prompt(asked)


def test_replies_see_the_system_prompt(make: Callable[..., Engine]) -> None:
    engine = make(system=SYSTEM)
    own = engine.replies([user(PROMPTS[1])], PENALISED)
    assert own == engine.replies([user(PROMPTS[1])], PENALISED, system=SYSTEM)
    assert own[0].ids != engine.replies([user(PROMPTS[1])], PENALISED, system="")[0].ids


def test_control_pieces_that_a_model_draws_are_not_shown(
    make: Callable[..., Engine], tokenizer: Any
) -> None:
    ids = tokenizer.convert_tokens_to_ids
    engine = make(build_scripted_model({4: [ids("▁It")], ids("▁It"): [3], 3: [ids("▁is")]}))
    reply = engine.replies([user("Hi")], Decoding.greedy(3))[0]
    assert (reply.ids, reply.text) == ((ids("▁It"), 3, ids("▁is")), "It is")


def saying(make: Callable[..., Engine], tokenizer: Any, pieces: Sequence[str]) -> Engine:
    """An engine that says exactly these pieces, of which none occurs twice."""
    ids = tokenizer.convert_tokens_to_ids(list(pieces))
    chain = [4, *ids, 2]
    assert len(set(chain)) == len(chain)
    return make(build_scripted_model({a: [b] for a, b in itertools.pairwise(chain)}))


OWL = ["<0xF0>", "<0x9F>", "<0xA6>", "<0x89>"]  # one character of four bytes


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["▁ok", "."], "ok."),
        (["▁", "▁▁", "▁a"], "   a"),
        (["▁an", "▁", *OWL, "▁flies"], "an 🦉 flies"),
        (["▁an", "▁", *OWL], "an 🦉"),
        (["▁new", "<0x0A>", *OWL], "new\n🦉"),
        (["▁cut", "▁", *OWL[:2], "▁short"], "cut �� short"),
        (["▁cut", *OWL[:3]], "cut���"),
        (["▁new", "<0x0A>", *OWL[:2]], "new���"),
        ([*OWL, "<0xFF>", "▁bad"], "����� bad"),
        ([], ""),
    ],
)
def test_streamed_pieces_join_to_the_reply(
    make: Callable[..., Engine], tokenizer: Any, pieces: list[str], text: str
) -> None:
    """A run of single bytes is text or not only as a whole, so it may not be shown before."""
    engine = saying(make, tokenizer, pieces)
    decoding = Decoding.greedy(max(1, len(pieces)))
    (reply,) = engine.replies([user("Hi")], decoding)
    assert reply.text == text
    assert "".join(engine.stream(user("Hi"), decoding)) == text


@pytest.mark.parametrize(
    ("before", "pieces", "text"),
    [
        ("The owl", ["▁flies", "."], " flies."),
        ("The owl", ["s", "▁fly"], "s fly"),
        ("The owl", ["▁an", "▁short"] * 30, " an short" * 30),
        ("An 🦉", ["▁flies"], " flies"),
        ("An 🦉", OWL, "🦉"),
        ("An 🦉", ["<0xFF>"], "�"),
        ("🦉", ["▁flies"], " flies"),
        ("", ["▁An", "▁short"], "An short"),
    ],
)
def test_a_reply_that_goes_on_from_a_text_keeps_its_first_space(
    engine: Engine, tokenizer: Any, before: str, pieces: list[str], text: str
) -> None:
    spelling = engine.spelling(after=engine.text_ids(before))
    shown = [spelling.add(number) for number in tokenizer.convert_tokens_to_ids(pieces)]
    assert "".join(shown) + spelling.end() == text


def test_a_character_of_several_bytes_arrives_whole(
    make: Callable[..., Engine], tokenizer: Any
) -> None:
    engine = saying(make, tokenizer, ["▁an", "▁", *OWL, "▁flies"])
    pieces = [p for p in engine.stream(user("Hi"), Decoding.greedy(20)) if p]
    assert pieces == ["an", " ", "🦉 flies"] or pieces == ["an", " ", "🦉", " flies"]


def test_pieces_are_streamed_as_they_are_drawn(
    scripted: Callable[..., LoadedModel],
) -> None:
    engine = Engine(scripted("The sky looks blue."))
    counted = Counted(engine)
    pieces = engine.stream(user("Hi"), Decoding.greedy(20))
    assert next(pieces) == "The"
    assert len(counted.calls) == 1  # the prompt; nothing was drawn ahead
    assert [p for p in pieces if p] == [" sky", " looks", " blue", "."]


@pytest.mark.parametrize("seed", range(3))
def test_a_streamed_sample_is_the_reply_to_the_same_request(engine: Engine, seed: int) -> None:
    decoding = SAMPLED.changed(seed=seed, max_new_tokens=30)
    (reply,) = engine.replies([user("Hi")], decoding, system=SYSTEM)
    assert "".join(engine.stream(user("Hi"), decoding, system=SYSTEM)) == reply.text


def test_a_shared_system_prompt_is_computed_once(make: Callable[..., Engine]) -> None:
    engine = make(system=SYSTEM)
    shared = len(engine.prompt_ids(user("Hi"))) - 3  # [INST] Hi [/INST] stands after it
    conversations = [user("Hi"), user("Why?"), user("Go")]
    counted = Counted(engine)
    engine.replies(conversations, Decoding.greedy(1))
    engine.replies(conversations[::-1], Decoding.greedy(1))
    widths = [engine.count(c) for c in conversations]
    assert counted.calls[0][0] == 1 and counted.calls[0][1] in (shared, shared + 1)
    assert counted.calls[1:] == [(3, max(widths) - counted.calls[0][1])] * 2


def test_a_prefix_is_correct_after_another_one(make: Callable[..., Engine]) -> None:
    engine = make()
    other = "Answer as a pirate would, with many a curse, and mention the sea in each sentence."
    conversations = [user(p) for p in PROMPTS]
    for system in (SYSTEM, other, SYSTEM, "", other):
        fresh = make().replies(conversations, PENALISED, system=system)
        assert engine.replies(conversations, PENALISED, system=system) == fresh


@pytest.mark.parametrize("batch", [1, 4])
def test_equal_prompts_get_equal_greedy_replies(make: Callable[..., Engine], batch: int) -> None:
    """All tokens are shared there, and the last must be computed all the same."""
    replies = make(batch=batch).replies([user(PROMPTS[2])] * 5, PENALISED)
    assert len(set(replies)) == 1


def test_earlier_turns_are_seen(engine: Engine) -> None:
    history = [*user("Hi"), {"role": "assistant", "content": "Ho"}, *user("And?")]
    first, second = engine.replies([history, user("And?")], PENALISED)
    assert first.ids != second.ids
    assert first.prompt_tokens > second.prompt_tokens


def test_progress_is_told_after_each_batch(make: Callable[..., Engine]) -> None:
    heard: list[int] = []
    make(batch=2).replies([user(p) for p in PROMPTS], Decoding.greedy(1), done=heard.append)
    assert heard == [2, 4, 5]
