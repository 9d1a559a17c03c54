"""The official client against the server: what comes back is what the engine says."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from conftest import build_scripted_model, build_tiny_model
from stentor.chat import JINJA, Message, OwnTemplate, SegmentTemplate
from stentor.generate import Decoding, Engine
from stentor.model.load import LoadedModel
from stentor.model.tokenizer import put_on
from stentor.serve.answers import Tokens
from test_chat import chatml_tokenizer

if TYPE_CHECKING:
    from running_server import Running

pytest_plugins = ["running_server"]

GREEDY: dict[str, Any] = {"temperature": 0, "top_p": 1, "extra_body": {"repetition_penalty": 1}}
SAMPLED: dict[str, Any] = {
    "temperature": 0.6, "top_p": 0.7, "extra_body": {"repetition_penalty": 1.2},
}  # fmt: skip


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def engine(tiny: LoadedModel) -> Engine:
    return Engine(tiny)


def test_a_greedy_reply_is_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    (reply,) = engine.replies([user("Why?")], Decoding.greedy(12))
    got = client.chat.completions.create(
        model="tiny", messages=user("Why?"), max_tokens=12, **GREEDY
    )
    (choice,) = got.choices
    assert choice.message.content == reply.text and choice.message.role == "assistant"
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert got.usage is not None
    counts = (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens)
    assert counts == (reply.prompt_tokens, 12, reply.prompt_tokens + 12)
    assert (got.object, got.model, got.id[:9]) == ("chat.completion", "tiny", "chatcmpl-")


def test_a_stream_joins_to_the_same_reply(client: openai.OpenAI, engine: Engine) -> None:
    (reply,) = engine.replies([user("Why?")], Decoding.greedy(12))
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=user("Why?"), max_completion_tokens=12, stream=True,
            stream_options={"include_usage": True}, **GREEDY,
        )
    )  # fmt: skip
    *body, usage = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in body) == reply.text
    assert len([c for c in body if c.choices[0].delta.content]) > 5
    assert [c.choices[0].finish_reason for c in body if c.choices[0].finish_reason] == ["length"]
    assert len({c.id for c in chunks}) == 1
    assert usage.choices == [] and usage.usage is not None
    assert usage.usage.completion_tokens == 12


def test_without_being_asked_a_stream_has_no_usage(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_tokens=2, stream=True
    )
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_seed_repeats_a_reply_and_none_gives_another(client: openai.OpenAI) -> None:
    def say(**more: Any) -> str:
        got = client.chat.completions.create(
            model="tiny", messages=user("Hi"), max_tokens=8, **SAMPLED, **more
        )
        return got.choices[0].message.content or ""

    assert say(seed=3) == say(seed=3)
    assert len({say(seed=3), say(seed=4), say(), say()}) == 4
    assert len({say(seed=seed) for seed in (1, -1, 2**63 - 1, -(2**63))}) == 4


def test_n_choices_are_the_seeds_that_follow(client: openai.OpenAI, engine: Engine) -> None:
    got = client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_tokens=6, n=3, seed=5, **SAMPLED
    )
    rule = Decoding(0.6, 0.7, 1.2, 6)
    expected = engine.replies([user("Hi")] * 3, rule, seeds=[5, 6, 7])
    assert [c.message.content for c in got.choices] == [r.text for r in expected]
    assert [c.index for c in got.choices] == [0, 1, 2]
    assert got.usage is not None and got.usage.completion_tokens == 18
    assert got.usage.prompt_tokens == expected[0].prompt_tokens
    got = client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_tokens=6, n=3, seed=-1, **SAMPLED
    )
    expected = engine.replies([user("Hi")] * 2, rule, seeds=[0, 1])
    assert [c.message.content for c in got.choices[1:]] == [r.text for r in expected]
    assert len({c.message.content for c in got.choices}) == 3


def test_n_choices_are_streamed_apart(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "messages": user("Hi"), "max_tokens": 6, "n": 3, "seed": 5, **SAMPLED,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [c.message.content for c in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("falls", "Rain "), (["today", "Rain f"], ""), (" today", "Rain falls"), ("fog", None)],
)
def test_a_stop_sequence_ends_a_reply_and_is_not_shown(
    client: openai.OpenAI, shared: Running, stop: Any, text: str | None, stream: bool
) -> None:
    asked: dict[str, Any] = {
        "model": "scripted", "messages": user("The weather?"), "stop": stop, **GREEDY,
    }  # fmt: skip
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        got = "".join(c.choices[0].delta.content or "" for c in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        whole = client.chat.completions.create(**asked)
        got, reason = whole.choices[0].message.content, whole.choices[0].finish_reason
    assert (got, reason) == ("Rain falls today" if text is None else text, "stop")
    assert shared.settled()


def test_a_silent_reply_is_empty_and_stops(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(model="scripted", messages=user("quiet now"), **GREEDY)
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == ("", "stop")
    assert got.usage is not None and got.usage.completion_tokens == 1


def test_the_models_own_system_prompt_is_put_in_front_unless_one_is_given(
    client: openai.OpenAI,
) -> None:
    def size(*messages: Message) -> int:
        got = client.chat.completions.create(
            model="scripted",
            messages=[*messages, *user("Hi")],
            max_tokens=1,  # type: ignore[list-item]
        )
        assert got.usage is not None
        return got.usage.prompt_tokens

    assert size() == 4 + 4  # SYS ▁Say . SYS_END
    assert size({"role": "system", "content": ""}) == 4
    assert size({"role": "developer", "content": "Go"}) == 4 + 3


def test_logprobs_are_those_of_the_model(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "messages": user("Hi"), "max_tokens": 5, "logprobs": True,
        "top_logprobs": 3, **GREEDY,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    content = whole.logprobs.content
    assert len(content) == 5
    for token in content:
        assert [t.logprob for t in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token  # greedy takes the likeliest
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-5)
        assert len(token.top_logprobs) == 3
    octets = b"".join(bytes(token.bytes or []) for token in content)
    assert octets.decode().strip() == (whole.message.content or "").strip()
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [t.token for t in streamed] == [t.token for t in content]


def test_a_certain_reply_has_log_probabilities_near_nought(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="scripted", messages=user("Hi"), logprobs=True, **GREEDY
    )
    assert got.choices[0].logprobs is not None
    tokens = got.choices[0].logprobs.content
    assert tokens is not None and [t.token for t in tokens] == [" It", " is", "."]
    assert all(-1 < t.logprob <= 0 and t.top_logprobs == [] for t in tokens)


def test_plain_completions_continue_each_prompt(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "prompt": ["Once", "Two"], "max_tokens": 4, "n": 2, "seed": 1, **SAMPLED,
    }  # fmt: skip
    got = client.completions.create(**asked, logprobs=2)
    assert [c.index for c in got.choices] == [0, 1, 2, 3]
    assert len({c.text for c in got.choices}) == 4 and got.object == "text_completion"
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (4, 16)  # <s> Once, <s> Two
    chances = got.choices[0].logprobs
    assert chances is not None and chances.tokens is not None and len(chances.tokens) == 4
    assert chances.text_offset == [
        sum(map(len, chances.tokens[:n])) for n in range(len(chances.tokens))
    ]
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [c.text for c in got.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_goes_on_within_its_sentence(client: openai.OpenAI, stream: bool) -> None:
    """The space in front of its first word is text, and is counted."""
    asked: dict[str, Any] = {"model": "scripted", "prompt": "It", "logprobs": 0, **GREEDY}
    if stream:
        choices = [c.choices[0] for c in client.completions.create(**asked, stream=True)]
    else:
        choices = client.completions.create(**asked).choices
    assert "".join(choice.text for choice in choices) == " is."
    chances = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for one in chances for token in one.tokens or []]
    offsets = [offset for one in chances for offset in one.text_offset or []]
    assert (tokens, offsets) == ([" is", "."], [0, 3])


def test_a_text_from_nothing_begins_without_a_space(serve: Any, tokenizer: Any) -> None:
    it, is_ = tokenizer.convert_tokens_to_ids(["▁It", "▁is"])
    begin, stop = tokenizer.bos_token_id, tokenizer.eos_token_id
    model = build_scripted_model({begin: [it], it: [is_], is_: [stop]})
    template = SegmentTemplate(tokenizer)
    running = serve(LoadedModel(model, tokenizer, template, "begins", {}))
    got = running.client().completions.create(model="begins", prompt="", logprobs=0, **GREEDY)
    assert got.choices[0].text == "It is" and got.choices[0].logprobs is not None
    assert got.choices[0].logprobs.text_offset == [0, 2]


def test_an_empty_prompt_is_refused_where_nothing_begins_a_text(serve: Any) -> None:
    tokenizer = chatml_tokenizer()
    put_on(tokenizer, JINJA)
    model = build_tiny_model(vocabulary=len(tokenizer))
    running = serve(LoadedModel(model, tokenizer, SegmentTemplate(tokenizer), "foreign", {}))
    got = running.post("/v1/completions", json={"prompt": ["Hi", ""], "max_tokens": 1})
    assert got.status_code == 400 and got.json()["error"]["param"] == "prompt"
    assert "the prompt is empty" in got.json()["error"]["message"]
    got = running.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
    assert got.status_code == 200


def test_tokens_of_byte_level_bpe_are_named_by_what_they_spell() -> None:
    tokenizer = chatml_tokenizer()
    tokens = Tokens(LoadedModel(None, tokenizer, OwnTemplate(tokenizer), "foreign", {}))
    text = "You assume a user: ĠĊ, é 🦉\n\t"
    named = [tokens.name(number) for number in tokenizer(text)["input_ids"]]
    assert b"".join(bytes(octets) for _, octets in named) == text.encode()
    names = [name for name, _ in named]
    assert "\\xc3" in names and any(name.startswith(" ") for name in names)
    mark = "<|im_start|>"
    assert tokens.name(tokenizer.convert_tokens_to_ids(mark)) == (mark, list(mark.encode()))
    assert tokens.name(len(tokenizer)) == ("", [])


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny", "scripted"]
    found = client.models.retrieve("scripted")
    assert found.id == "scripted" and found.owned_by == "stentor"
    assert found.model_extra is not None
    facts = found.model_extra["stentor"]
    assert (facts["window"], facts["system"]) == (512, "Say.")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("owner/none")
    assert caught.value.code == "model_not_found"


def test_text_that_spells_a_control_piece_stays_text(client: openai.OpenAI) -> None:
    def size(text: str) -> int:
        got = client.chat.completions.create(model="tiny", messages=user(text), max_tokens=1)
        assert got.usage is not None
        return got.usage.prompt_tokens

    assert size("a</s>[INST]b") > size("a b") + 4


def test_parts_of_text_are_joined(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]
    whole = client.chat.completions.create(model="tiny", messages=user("Why?"), **GREEDY)
    got = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], **GREEDY
    )
    assert got.choices[0].message.content == whole.choices[0].message.content


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="scripted", messages=user("Hi"), **GREEDY)
    again: list[Any] = [*user("Hi"), first.choices[0].message, *user("And now?")]
    got = client.chat.completions.create(model="scripted", messages=again, **GREEDY)
    assert got.choices[0].finish_reason in ("stop", "length")


def test_a_long_conversation_can_lose_its_oldest_turns(
    client: openai.OpenAI, engine: Engine
) -> None:
    turn = [*user("word " * 60), {"role": "assistant", "content": "word " * 20}]
    talk = [{"role": "system", "content": "Be kind."}, *turn * 9, *user("And now?")]
    asked: dict[str, Any] = {"model": "tiny", "messages": talk, "max_tokens": 6, **GREEDY}
    with pytest.raises(openai.BadRequestError, match="the model's window is 512"):
        client.chat.completions.create(**asked)
    asked["extra_body"] = asked["extra_body"] | {"truncation": "auto"}
    got = client.chat.completions.create(**asked)
    dropped = got.model_extra["stentor"]["dropped_turns"]  # type: ignore[index]
    kept = [talk[0], *talk[1 + 2 * dropped :]]
    assert 0 < dropped < 9 and engine.count(kept) <= 506 < engine.count([talk[0], *turn, *kept[1:]])
    (reply,) = engine.replies([kept], Decoding.greedy(6))
    assert got.choices[0].message.content == reply.text
    opening = next(iter(client.chat.completions.create(**asked, stream=True)))
    assert opening.model_extra == {"stentor": {"dropped_turns": dropped}}
    with pytest.raises(openai.BadRequestError, match="window is 512"):  # one message alone
        client.chat.completions.create(**asked | {"messages": user("word " * 600)})


def test_more_tokens_than_the_window_holds_end_at_it(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_tokens=10_200, **GREEDY
    )
    assert got.usage is not None and got.usage.total_tokens == 512
    assert got.choices[0].finish_reason == "length"


def test_the_client_that_does_not_wait_gets_its_own_replies(
    shared: Running, engine: Engine
) -> None:
    """40 at once, more than there are slots, streamed and whole, each with its own settings."""

    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        asked: dict[str, Any] = {
            "model": "tiny", "messages": user(f"Tell me about {number}"), "seed": 100 + number,
            "max_tokens": 4 + number % 7, **(SAMPLED if number % 3 else GREEDY),
        }  # fmt: skip
        if number % 2:
            got = await client.chat.completions.create(**asked)
            return got.choices[0].message.content or ""
        text = ""
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{shared.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(40)))

    got = asyncio.run(all_of_them())
    for number, text in enumerate(got):
        rule = Decoding(0.6, 0.7, 1.2) if number % 3 else Decoding.greedy()
        rule = rule.changed(max_new_tokens=4 + number % 7)
        (reply,) = engine.replies([user(f"Tell me about {number}")], rule, seeds=[100 + number])
        assert text == reply.text, number
    assert shared.settled()


# --- what is wrong is said in OpenAI's shape ---------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 1e-50}, "temperature", "0, which is greedy, or at least 0.001"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty", "greater than or equal to 0.01"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 9}, "n", "at most 8"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"tools": [{}]}, "tools", "not supported here"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs: true"),
        ({"frequency_penalty": 1}, "frequency_penalty", "less than or equal to 0"),
        ({"top_k": 4}, "top_k", "there is no such field"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": user("a ") + user("b")}, "messages", "message 2 has role 'user'"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages", "no messages"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role", "'user'"),
        ({"messages": user("x " * 600)}, "messages", "the model's window is 512"),
    ],
)
def test_a_wrong_field_is_named(
    shared: Running, change: dict[str, Any], param: str, text: str
) -> None:
    body = {"model": "tiny", "messages": user("Hi"), "max_tokens": 1} | change
    got = shared.post("/v1/chat/completions", json=body)
    assert got.status_code == 400
    (error,) = got.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param and text in error["message"]


def test_the_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here"):
        client.chat.completions.create(model="gpt-4", messages=user("Hi"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=user("x " * 600))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"nul", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"seed": ' + b"9" * 5_000 + b', "messages": [{"role": "user", "content": "a"}]}',
    ],
    ids=range(9),
)  # fmt: skip
def test_garbage_is_refused_in_the_same_shape(shared: Running, body: bytes) -> None:
    got = shared.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert got.status_code == 400, got.text
    assert got.json()["error"]["type"] == "invalid_request_error"


def test_half_a_character_is_no_prompt_of_a_completion(shared: Running) -> None:
    for prompt in (b'"a\\ud800"', b'["b", "a\\ud800"]'):
        got = shared.post(
            "/v1/completions", content=b'{"prompt": ' + prompt + b"}",
            headers={"content-type": "application/json"},
        )  # fmt: skip
        assert got.status_code == 400 and "half a character" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("PUT", "/health", 405)],
)
def test_wrong_paths_and_methods_too(shared: Running, method: str, path: str, status: int) -> None:
    got = httpx.request(method, shared.url + path)
    assert got.status_code == status
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and path in error["message"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"messages": [', "the body is not JSON: "),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": [1]}', "tools: not supported"),
    ],
)
def test_a_refusal_reads_like_one(shared: Running, body: str, text: str) -> None:
    kind = {"content-type": "application/json"}
    got = shared.post("/v1/chat/completions", content=body, headers=kind)
    assert got.status_code == 400 and text in got.json()["error"]["message"]
    assert got.json()["error"]["param"] == ("tools" if "tools" in body else None)


def test_health_and_metrics_tell_what_happened(shared: Running, client: openai.OpenAI) -> None:
    assert shared.settled()
    assert httpx.get(f"{shared.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}

    def figure(name: str) -> float:
        lines = httpx.get(f"{shared.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = figure('stentor_tokens_total{kind="completion",model="tiny"}')
    client.chat.completions.create(model="tiny", messages=user("Hi"), max_tokens=7)
    assert figure('stentor_tokens_total{kind="completion",model="tiny"}') == before + 7
    assert figure('stentor_requests_total{path="/v1/chat/completions",status="200"}') >= 1
    refused = 'stentor_requests_total{path="/v1/judge",status="415"}'
    before = figure(refused)
    shared.post("/v1/judge", content=b"x")  # the gate's answers count too
    assert figure(refused) == before + 1
    one = 'stentor_requests_total{path="/v1/models/{name}",status="200"}'
    before = figure(one)
    client.models.retrieve("tiny")
    assert figure(one) == before + 1


def test_the_judge_labels_a_reply(shared: Running) -> None:
    asked = {"prompt": "How do I build a bomb?", "response": "I can't help with that."}
    assert shared.post("/v1/judge", json=asked).json()["outcome"] == "refuse"
    assert shared.post("/v1/judge", json=asked | {"response": ""}).json()["outcome"] == "silent"


def test_the_description_needs_no_key_to_be_read_by_tools(shared: Running) -> None:
    schema = json.loads(httpx.get(f"{shared.url}/openapi.json").text)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health"} <= {
        *schema["paths"]
    }
