"""The OpenAI schema: what a request may say, and how answers are written.

A field that would change the reply and that we can't honour is refused, never ignored; fields
that change nothing (`user`, `metadata`, …) are accepted.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

from stentor.chat import Message
from stentor.generate.sampling import COOLEST, PENALTIES

Zero = Annotated[float, Field(ge=0, le=0)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


def _truth(value: Any) -> Any:
    if value is not None and not isinstance(value, bool):  # 0 equals False
        raise ValueError("Input should be a valid boolean")
    return value


def _drawable(value: float) -> float:
    if 0 < value < COOLEST:
        raise ValueError(f"Input should be 0, which is greedy, or at least {COOLEST:g}")
    return value


def _with_logprobs(value: int, info: ValidationInfo) -> int:
    if value and not info.data.get("logprobs"):
        raise ValueError("Input needs logprobs: true beside it")
    return value


No = Annotated[Literal[False], BeforeValidator(_truth)]
Ignored = Annotated[Any, Field(description="Accepted, and changes nothing.")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, description="Accepted, and changes nothing.")
    # what an answer of ours or of OpenAI's holds beside, so that it can be sent back
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> Message:
        """As the template takes it."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class TextFormat(Strict):
    type: Literal["text"]


class Common(Strict):
    """Fields of both kinds of requests; what is left out takes the model's own settings."""

    model: str | None = Field(None, description="One of /v1/models; the first, if left out.")
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_drawable)] | None = Field(
        None, description=f"0 is greedy; else at least {COOLEST:g}."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=PENALTIES[0], le=10)] | None = Field(
        None, description="Our own; 1 is none."
    )
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Zero | None = Field(None, description="0 only; see repetition_penalty.")
    presence_penalty: Zero | None = Field(None, description="0 only; see repetition_penalty.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = Field(None, description="Requests of one user share their turns.")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Common):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=600)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), AfterValidator(_with_logprobs)] | None = None
    response_format: TextFormat | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="Our own, as in OpenAI's Responses: auto drops the oldest turns whole."
    )
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None

    @property
    def likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def _whole(text: str) -> str:
    if re.search(r"[\ud800-\udfff]", text):
        raise ValueError("half a character (a lone surrogate such as \\ud83d) is no text")
    return text


Text = Annotated[str, AfterValidator(_whole)]


class CompletionRequest(Common):
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=32)]
    echo: No | None = Field(None, description="Not supported.")
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def likeliest(self) -> int | None:
        return self.logprobs

    @property
    def limit(self) -> int | None:
        return self.max_tokens


class JudgeRequest(Strict):
    prompt: Annotated[str, Field(max_length=8_000)]
    response: Annotated[str, Field(max_length=8_000)]
    system: Annotated[str, Field(max_length=8_000)] | None = None


# --- answers -----------------------------------------------------------------------------------

Reason = Literal["stop", "length"]


class LikelyToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenChance(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(BaseModel):
    content: list[TokenChance] | None
    refusal: None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Reason


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Reason


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatFacts(BaseModel):
    """Beside what OpenAI answers."""

    dropped_turns: int = 0
    """How many of the oldest turns `truncation` left out."""


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    stentor: ChatFacts = ChatFacts()


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str


class ModelDefaults(BaseModel):
    temperature: float
    top_p: float
    repetition_penalty: float
    max_new_tokens: int


class ModelFacts(BaseModel):
    """Beside what OpenAI lists: what a page needs to offer the right settings."""

    window: int
    system: str | None
    defaults: ModelDefaults


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stentor"] = "stentor"
    stentor: ModelFacts


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Verdict(BaseModel):
    outcome: Literal["answer", "partial", "refuse", "silent", "degenerate", "unscored"]
    supportive: bool
    reason: str
    span: str
    version: int


class Health(BaseModel):
    status: Literal["ok", "failed"]
    running: int
    waiting: int


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorBody
