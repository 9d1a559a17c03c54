"""The gate in front of the application: who may ask, from where, and how much they may send.

A page of another site can reach a loopback server through the browser of whoever runs it. It is
kept out by three rules: the Host header must name loopback (against rebound names), a body
must be called JSON (which no form can), and no answer permits another origin.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stentor.serve.limits import Limits
from stentor.serve.refusals import Refused, answer

_OPEN = frozenset({"/health"})

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether it is `localhost` or an address by which only this machine reaches itself."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Wraps the application; answers what does not pass by itself."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        *,
        api_key: str | None,
        loopback: bool,
        public: frozenset[str] = frozenset(),
        posts: frozenset[str] = frozenset(),
    ) -> None:
        """`public`: paths that need no key, beside /health: the page's own files. `posts`: those
        that take a body; elsewhere one is not read."""
        self._app, self._limits = app, limits
        self._key = None if api_key is None else api_key.encode()
        self._loopback = loopback
        self._public, self._posts = _OPEN | public, posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(scope, headers)
            if scope["method"] == "POST" and scope["path"] in self._posts:
                receive = await self._body(headers, receive)
        except Refused as refused:
            await answer(refused)(scope, receive, _with_headers(send))
        else:
            await self._app(scope, receive, _with_headers(send))

    def _check_host(self, headers: Headers) -> None:
        if not self._loopback:
            return
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if not is_loopback(name):
            raise Refused(421, "this server answers only to the name of this machine's loopback")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if self._key is None or scope["path"] in self._public:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._key)
        if kind.lower() != "bearer" or not right:
            raise Refused(
                401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip

    async def _body(self, headers: Headers, receive: Receive) -> Receive:
        """Read the whole body, within its limits; returns what gives it to the application."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "the body must be JSON: send 'Content-Type: application/json'")
        most = self._limits.body
        told = headers.get("content-length", "0")
        if told.isdecimal() and int(told) > most:
            raise _too_big(most)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await _whole(receive, most)
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from None
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # what comes now is the client's leaving
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


async def _whole(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "the client left before its request was complete")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_big(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_big(most: int) -> Refused:
    return Refused(413, f"the body has more than {most:,} bytes; send less")


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            have = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in have),
            ]
        await send(message)

    return sending
