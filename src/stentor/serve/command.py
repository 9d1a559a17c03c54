"""What `stentor serve` does: load, bind, serve, and end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from stentor.errors import InputError, MissingExtra
from stentor.generate.choice import Tell, open_engine, say
from stentor.serve.limits import Limits

try:
    import uvicorn

    from stentor.serve.app import build
    from stentor.serve.connections import patient
    from stentor.serve.guard import is_loopback
    from stentor.serve.metrics import Metrics
    from stentor.serve.served import Served
except ImportError as missing:
    raise MissingExtra(missing.name or "fastapi", "serve", "stentor serve") from None


def serve(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    api_key: str | None,
    system: str | None,
    limits: Limits,
    backend: str = "auto",
) -> None:
    """Serve until told to stop (Ctrl-C, SIGTERM); running replies are finished first."""
    loopback = is_loopback(host)
    check_key(host, api_key, loopback=loopback)
    listener = bind(host, port)
    with contextlib.closing(listener):
        metrics = Metrics()
        told: list[str] = []
        served = load_models(
            models, limits, metrics, system=system, backend=backend, tell=told.append
        )
        app = build(served, limits, metrics, api_key=api_key, loopback=loopback)
        shown, number = listener.getsockname()[:2]
        where = f"http://{f'[{shown}]' if ':' in shown else shown}:{number}"
        names = ", ".join(one.name for one in served)
        print(f"serving {names} at {where}  (API: {where}/v1; Ctrl-C stops)", file=sys.stderr)
        for line in told:
            say(line)
        run(app, limits, served, [listener])


def check_key(host: str, api_key: str | None, *, loopback: bool) -> None:
    if api_key is not None and len(api_key) < 8:
        raise InputError("serve: the API key is shorter than 8 characters; take a longer one")
    if api_key is not None and not _fits_a_header(api_key):
        raise InputError(
            "serve: clients can't send this API key: in a header only letters, digits and signs "
            "of ASCII arrive as they were sent, and no space at an end; take another key"
        )
    if not loopback and api_key is None:
        raise InputError(
            f"serve: binding to {host} lets others in; add --api-key KEY "
            "(or STENTOR_API_KEY), or stay on 127.0.0.1"
        )


def _fits_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or what is wrong in one line."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise InputError(f"serve: there is no address {host!r}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel drops readers that take nothing
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InputError(
            f"serve: {host}:{port} can't be used: {error.strerror}; choose another with --port"
        ) from None
    return listener


def load_models(
    names: Sequence[str],
    limits: Limits,
    metrics: Metrics,
    *,
    system: str | None,
    backend: str = "auto",
    tell: Tell = say,
) -> list[Served]:
    """Each model under the last part of its name, or under that and a number."""
    served: list[Served] = []
    for name in names:
        engine = open_engine(name, backend, tell=tell)
        path = Path(name)
        short = path.resolve().name if path.exists() else name
        taken = {one.name for one in served}
        shown, number = short, 2
        while shown in taken:
            shown, number = f"{short}-{number}", number + 1
        served.append(Served(shown, engine, limits, metrics, system=system))
    return served


def configured(app: Any, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app, http=patient(limits.head_seconds), ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=20,
        timeout_graceful_shutdown=limits.grace,
    )  # fmt: skip


def run(app: Any, limits: Limits, served: Sequence[Served], sockets: list[socket.socket]) -> None:
    """Serve on listening sockets until a signal comes."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of what clients send
    server = _Server(configured(app, limits), served)
    asyncio.run(server.serve(sockets=sockets))


class _Server(uvicorn.Server):
    """Ends with exit code 0 when told to; uvicorn's own dies of the signal once it is done."""

    def __init__(self, config: uvicorn.Config, served: Sequence[Served]) -> None:
        super().__init__(config)
        self._served = served

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self.should_exit
        super().handle_exit(sig, frame)
        left = sum(one.scheduler.running + one.scheduler.waiting for one in self._served)
        if left and not again:
            grace = self.config.timeout_graceful_shutdown
            print(
                f"stopping: {left} replies may finish, for {grace} seconds at most "
                "(Ctrl-C again ends them)", file=sys.stderr,
            )  # fmt: skip

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
