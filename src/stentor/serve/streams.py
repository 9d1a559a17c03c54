"""Answers that end when the client leaves: whole ones, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stentor.serve.answers import Reply, Writer
from stentor.serve.refusals import Refused
from stentor.serve.served import Ticket

T = TypeVar("T")


class Gone(Exception):
    """The client left before its answer was complete."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and give it up as soon as the client leaves (raises Gone)."""

    async def leaving() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def whole(request: Request, ticket: Ticket, writer: Writer) -> Any:
    """The answer when all replies have ended."""

    async def gather() -> list[Reply]:
        replies = [Reply() for _ in ticket.jobs]
        async for job, event in ticket.events():
            reply = replies[job.index]
            reply.text += event.text
            reply.drawn += event.drawn
            reply.end = event.end
        return replies

    try:
        return writer.whole(await unless_gone(request.receive, gather()), ticket.usage)
    except Gone:
        return Response(status_code=499)  # nobody reads it
    finally:
        ticket.close()


async def streamed(request: Request, ticket: Ticket, writer: Writer, *, usage: bool) -> Response:
    """A stream, once the replies have got their turn."""
    try:
        await unless_gone(request.receive, ticket.turn())
    except Gone:
        ticket.close()
        return Response(status_code=499)
    except BaseException:
        ticket.close()
        raise
    return EventStream(ticket, _chunks(ticket, writer, usage))


async def _chunks(ticket: Ticket, writer: Writer, usage: bool) -> AsyncIterator[str]:
    sent = [""] * len(ticket.jobs)
    for job in ticket.jobs:
        if opening := writer.opening(job.index):
            yield _line(opening)
    try:
        async for job, event in ticket.events():
            if event.text or event.drawn:
                yield _line(writer.piece(job.index, sent[job.index], event.text, event.drawn))
                sent[job.index] += event.text
            if event.end:
                yield _line(writer.closing(job.index, event.end))
    except Refused as refused:
        yield _line(refused.body)
        return
    if usage:
        yield _line(writer.usage(ticket.usage))
    yield "data: [DONE]\n\n"


def _line(found: Any) -> str:
    return f"data: {json.dumps(found, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """Sends chunks as they come. A slow reader holds up its own stream and nothing else: its
    replies are decoded on, and wait here; after `write_seconds` without progress it is dropped."""

    media_type = "text/event-stream"

    def __init__(self, ticket: Ticket, chunks: AsyncIterator[str]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._ticket, self._chunks = ticket, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        patience = self._ticket.limits.write_seconds

        async def pump() -> None:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for chunk in self._chunks:
                async with asyncio.timeout(patience):
                    await send(
                        {"type": "http.response.body", "body": chunk.encode(), "more_body": True}
                    )
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await unless_gone(receive, pump())
        except (Gone, TimeoutError, OSError):
            pass
        finally:
            self._ticket.close()
