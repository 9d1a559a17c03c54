"""Connections that say nothing, or a request's head byte by byte: uvicorn alone waits for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from stentor.serve.refusals import error


def patient(seconds: float) -> type[H11Protocol]:
    """The protocol of a connection that is given so long for each request's head [408]."""
    body = json.dumps(error(408, f"no request arrived within {seconds:g} seconds")).encode()
    late = (
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE or self._unread:
                self._expect()
            else:
                self._forget()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        @property
        def _unread(self) -> bool:
            """Whether the answer is out and the body is still coming: who sends it is done with."""
            answered = self.cycle is not None and self.cycle.response_complete
            return answered and self.conn.their_state is h11.SEND_BODY

        def _expect(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(seconds, self._give_up)

        def _forget(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            if self.transport.is_closing():
                return
            if self.conn.their_state is h11.IDLE:
                self.transport.write(late)
                self.transport.close()
            elif self._unread:
                self.transport.close()

    return Connection
