"""A model that is served: requests become jobs of its scheduler, events come back to whom asked."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from stentor.chat import Message, check_messages
from stentor.errors import InputError
from stentor.generate import Decoding, Engine
from stentor.generate.conversation import latest
from stentor.generate.running import Request
from stentor.serve.answers import Tokens
from stentor.serve.limits import Limits
from stentor.serve.metrics import Metrics
from stentor.serve.openai import ChatRequest, CompletionRequest, Usage
from stentor.serve.refusals import Refused
from stentor.serve.scheduler import Busy, Client, Closing, Event, Job, Scheduler

_AGAIN = {"retry-after": "1"}


class Served:
    """One model: its engine, its scheduler, and the inboxes of the requests under way."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        limits: Limits,
        metrics: Metrics,
        *,
        system: str | None = None,
    ) -> None:
        """`system`: what takes the place of the model's own system prompt; "" is none."""
        self.name, self.limits, self.metrics = name, limits, metrics
        self.fingerprint = engine.fingerprint or f"stentor-{name}"
        self.created = int(time.time())
        self.tokens = Tokens(engine.chat)
        self.engine = engine
        self.system = self.engine.system if system is None else system
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inboxes: dict[Job, asyncio.Queue[tuple[Job, Event]]] = {}
        self.scheduler = Scheduler(
            self.engine, self._deliver,
            slots=limits.slots, queue=limits.queue, client_queue=limits.client_queue,
        )  # fmt: skip
        metrics.watch(
            name, lambda: self.scheduler.running, lambda: self.scheduler.waiting,
            lambda: self.scheduler.steps, lambda: self.scheduler.failures,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to decode; call it in the event loop that serves."""
        self._loop = asyncio.get_running_loop()
        self.scheduler.start()

    # --- requests ------------------------------------------------------------------------------

    def admit(self, asked: ChatRequest | CompletionRequest, client: Client) -> None:
        """Refused when there is no room for the replies: before their prompts cost anything."""
        with _refusing():
            self.scheduler.check(client, self._choices(asked) * _prompts(asked))

    def chat(self, asked: ChatRequest) -> tuple[list[Request], int]:
        """A request for each choice, and how many turns were dropped to make room.

        Refused when they can't be served. Takes milliseconds.
        """
        count = self._choices(asked)
        messages, system = self._conversation(asked)
        decoding, dropped = self._decoding(asked), 0
        try:
            if asked.truncation == "auto":
                check_messages(messages)
                messages, dropped = latest(self.engine, messages, system, decoding)
            first = self.engine.request(
                messages, decoding, system=system, likeliest=asked.likeliest
            )
        except InputError as error:
            size = self.engine.window
            code = "context_length_exceeded" if f"window is {size}" in str(error) else None
            raise Refused(400, str(error), param="messages", code=code) from None
        return [_seeded(first, number) for number in range(count)], dropped

    def complete(self, asked: CompletionRequest) -> list[Request]:
        """A request for each prompt and choice, in OpenAI's order."""
        count = self._choices(asked)
        decoding, found = self._decoding(asked), []
        for prompt in asked.prompts:
            ids = self.engine.text_ids(prompt)
            if not ids:
                raise Refused(
                    400,
                    "the prompt is empty, and this model has no token that begins a text; "
                    "give it something to continue",
                    param="prompt",
                )
            if len(ids) >= self.engine.window:
                raise Refused(
                    400,
                    f"the prompt has {len(ids)} tokens, but the model's window is "
                    f"{self.engine.window} and a reply needs room; shorten it",
                    param="prompt", code="context_length_exceeded",
                )  # fmt: skip
            first = Request(ids, decoding, decoding.seed, 0, asked.likeliest)
            found += [_seeded(first, number) for number in range(count)]
        return found

    def _conversation(self, asked: ChatRequest) -> tuple[list[Message], str | None]:
        messages = [message.plain() for message in asked.messages]
        if messages[0]["role"] == "system" and not messages[0]["content"]:
            return messages[1:], ""  # an empty system message is none
        return messages, self.system

    def _choices(self, asked: ChatRequest | CompletionRequest) -> int:
        """How many replies each prompt gets."""
        count = asked.n or 1
        whole = count * _prompts(asked)
        if whole > self.limits.choices:
            raise Refused(
                400,
                f"{whole} replies are asked for; this server gives at most "
                f"{self.limits.choices} to a request",
                param="n",
            )
        return count

    def _decoding(self, asked: ChatRequest | CompletionRequest) -> Decoding:
        most = self.limits.new_tokens
        if most is not None and asked.limit is not None and asked.limit > most:
            raise Refused(
                400,
                f"{asked.limit} new tokens are asked for; this server gives at most {most}",
                param="max_tokens",
            )
        default = self.engine.defaults
        wanted = asked.limit or min(default.max_new_tokens, most or default.max_new_tokens)
        return default.changed(
            temperature=asked.temperature,
            top_p=None if asked.top_p is None else max(asked.top_p, 1e-6),  # 0: the likeliest only
            repetition_penalty=asked.repetition_penalty,
            max_new_tokens=wanted,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed,
        )

    # --- replies -------------------------------------------------------------------------------

    def submit(
        self,
        requests: Sequence[Request],
        stops: Sequence[str],
        client: Client,
        *,
        continues: bool = False,
    ) -> Ticket:
        """Queue the replies of one HTTP request; `continues`: they go on from a text."""
        jobs = [
            Job(
                request,
                self.engine.spelling(stops, after=request.ids if continues else ()),
                client,
                index,
            )
            for index, request in enumerate(requests)
        ]
        inbox: asyncio.Queue[tuple[Job, Event]] = asyncio.Queue()
        self._inboxes |= dict.fromkeys(jobs, inbox)
        try:
            with _refusing():
                self.scheduler.submit(jobs)
        except Refused:
            self.forget(jobs)
            raise
        return Ticket(self, jobs, inbox)

    def forget(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._inboxes.pop(job, None)

    def _deliver(self, events: list[tuple[Job, Event]]) -> None:
        """In the scheduler's thread: hand over to the event loop, which may be gone by now."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._sort, events)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _sort(self, events: list[tuple[Job, Event]]) -> None:
        for job, event in events:
            inbox = self._inboxes.get(job)
            if inbox is not None:
                inbox.put_nowait((job, event))


class Ticket:
    """The replies that one HTTP request waits for. Close it, whatever happens."""

    def __init__(
        self, served: Served, jobs: list[Job], inbox: asyncio.Queue[tuple[Job, Event]]
    ) -> None:
        self._served, self.jobs, self._inbox = served, jobs, inbox
        self._asked = time.monotonic()
        self._deadline = self._asked + served.limits.queue_seconds
        self._begun = False
        self._open = set(jobs)
        self._ends: dict[Job, str] = {}

    @property
    def limits(self) -> Limits:
        return self._served.limits

    @property
    def usage(self) -> Usage:
        """OpenAI counts a prompt once, however many choices were drawn for it."""
        prompt = sum({id(job.request.ids): len(job.request.ids) for job in self.jobs}.values())
        drawn = sum(job.tokens for job in self.jobs)
        return Usage(prompt_tokens=prompt, completion_tokens=drawn, total_tokens=prompt + drawn)

    async def turn(self) -> None:
        """Wait until decoding begins; Refused (503) when that takes too long."""
        while not self._begun:
            await self._next()

    async def events(self) -> AsyncIterator[tuple[Job, Event]]:
        """Text and ends, until every reply has ended; Refused when it takes too long, or fails."""
        shown = False
        while self._open:
            job, event = await self._next()
            if event.started:
                continue
            if event.text and not shown:
                shown = True
                self._served.metrics.first_text(self._served.name, time.monotonic() - self._asked)
            if event.end:
                self._open.discard(job)
                self._ends[job] = event.end
            yield job, event

    async def _next(self) -> tuple[Job, Event]:
        limits = self._served.limits
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                job, event = await self._inbox.get()
        except TimeoutError:
            self._ends |= dict.fromkeys(self._open, "late")
            if self._begun:
                text = f"the reply was not complete after {limits.seconds:g} seconds"
                raise Refused(504, text, code="timeout") from None
            text = f"no slot became free within {limits.queue_seconds:g} seconds; try again"
            raise Refused(503, text, code="queue_timeout", headers=_AGAIN) from None
        if event.started:
            self._begun = True
            self._deadline = time.monotonic() + limits.seconds
        if event.end == "error":
            self._ends |= dict.fromkeys(self._open, "error")
            raise Refused(500, "decoding failed; the server's log says why")
        return job, event

    def close(self) -> None:
        """Free the slots of what has not ended; count what became of everything."""
        served, seconds = self._served, time.monotonic() - self._asked
        served.forget(self.jobs)
        if self._open:
            served.scheduler.cancel(list(self._open))
        for job in self.jobs:
            end = self._ends.get(job, "gone")
            served.metrics.ended(served.name, end, len(job.request.ids), job.tokens, seconds)


@contextmanager
def _refusing() -> Iterator[None]:
    """What the scheduler has no room for, as the answer to who asked."""
    try:
        yield
    except Busy as error:
        status = 429 if error.own else 503
        raise Refused(status, str(error), code="queue_full", headers=_AGAIN) from None
    except Closing as error:
        raise Refused(503, str(error), code="stopping") from None


def _prompts(asked: ChatRequest | CompletionRequest) -> int:
    """How many prompts a request brings."""
    return len(asked.prompts) if isinstance(asked, CompletionRequest) else 1


def _seeded(request: Request, number: int) -> Request:
    """The request of another choice: the same prompt, its own seed."""
    if number == 0:
        return request
    seed = request.seed + number
    return Request(request.ids, request.decoding, seed, request.lead, request.likeliest)
