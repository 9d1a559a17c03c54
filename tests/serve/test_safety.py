"""Limits with their statuses; who may ask; clients that leave, crawl or talk garbage."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from conftest import until
from stentor.errors import InputError, MissingExtra
from stentor.model.load import LoadedModel
from stentor.serve.command import bind, check_key
from stentor.serve.guard import is_loopback
from stentor.serve.limits import Limits

if TYPE_CHECKING:
    from running_server import Running

pytest_plugins = ["running_server"]

Serve = Callable[..., "Running"]
CHAT = "/v1/chat/completions"


def asking(tokens: int = 400, **more: Any) -> dict[str, Any]:
    """A request for a long reply, which the model without a stop will give."""
    content = [{"role": "user", "content": "Hi"}]
    return {"messages": content, "max_tokens": tokens, "temperature": 0} | more


def wire(
    running: Running,
    body: dict[str, Any] | None = None,
    *,
    source: str = "127.0.0.1",
    **headers: str,
) -> socket.socket:
    """A connection that has sent a request and has read nothing; it comes from `source`."""
    host, port = running.url.removeprefix("http://").split(":")
    sent = json.dumps(body or asking(stream=True)).encode()
    lines = {"host": host, "content-type": "application/json", "content-length": str(len(sent))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | headers).items())
    place = (host, int(port))
    connection = socket.create_connection(place, timeout=30, source_address=(source, 0))
    connection.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + sent)
    return connection


# --- limits -------------------------------------------------------------------------------------


def test_a_body_that_is_too_big_is_413_told_or_not(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(body=1000))
    big = json.dumps(asking(user="x" * 2000)).encode()
    told = running.post(CHAT, content=big, headers={"content-type": "application/json"})
    untold = running.post(
        CHAT, content=iter([big[:1500], big[1500:]]), headers={"content-type": "application/json"}
    )
    for got in (told, untold):
        assert got.status_code == 413
        assert got.json()["error"]["message"] == "the body has more than 1,000 bytes; send less"


def test_a_body_that_does_not_arrive_is_408(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(body_seconds=0.2))
    with wire(running, **{"content-length": "5000"}) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: loc"])
def test_a_head_that_does_not_arrive_is_408(serve: Serve, tiny: LoadedModel, sent: bytes) -> None:
    """Drip by drip is no better than silence: the time runs from the first byte."""
    running = serve(tiny, limits=Limits(head_seconds=0.4))
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.settimeout(0.05)
        got, started = b"", time.monotonic()
        while not got and time.monotonic() - started < 5:
            with contextlib.suppress(TimeoutError):
                got = connection.recv(1000)
            if sent and not got:
                connection.sendall(b"a")
        assert got.startswith(b"HTTP/1.1 408") and b"within 0.4 seconds" in got
    with wire(running, asking(3)) as connection:  # who sends its request in time has its own time
        time.sleep(0.6)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_body_that_goes_on_after_its_answer_keeps_no_connection_open(
    serve: Serve, tiny: LoadedModel
) -> None:
    """One byte would do so for ever, without the key even."""
    running = serve(tiny, limits=Limits(head_seconds=0.4))
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: text/plain\r\n"
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 415")
        connection.sendall(b"x")
        started = time.monotonic()
        while connection.recv(1000):
            pass
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_called_json_is_415(shared: Running, kind: str) -> None:
    """No form of another site can send anything else, so none gets through."""
    got = shared.post(CHAT, content=json.dumps(asking()), headers={"content-type": kind})
    assert got.status_code == 415


def test_more_tokens_than_the_server_allows_is_400(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(new_tokens=5))
    got = running.post(CHAT, json=asking(6))
    assert got.status_code == 400 and got.json()["error"]["param"] == "max_tokens"
    assert running.post(CHAT, json=asking(5)).status_code == 200
    unasked = asking()
    del unasked["max_tokens"]
    assert running.post(CHAT, json=unasked).json()["usage"]["completion_tokens"] == 5


def test_a_full_queue_is_503_and_a_full_share_429(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(slots=1, queue=2, client_queue=1))
    held = [wire(running), wire(running)]
    (model,) = running.models
    assert until(lambda: (model.scheduler.running, model.scheduler.waiting) == (1, 1))
    own = running.post(CHAT, json=asking(user="another name of the same one"))
    assert (own.status_code, own.json()["error"]["type"]) == (429, "rate_limit_error")
    other = wire(running, source="127.0.0.2")
    assert until(lambda: model.scheduler.waiting == 2)
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3")) as third:
        full = third.post(running.url + CHAT, json=asking())
    assert (full.status_code, full.json()["error"]["type"]) == (503, "server_error")
    assert full.headers["retry-after"] == "1"
    for connection in (*held, other):
        connection.close()
    assert running.settled()


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, asking()), ("/v1/completions", {"prompt": "Hi"})]
)
def test_a_full_queue_is_told_before_a_prompt_is_read(
    serve: Serve, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    running = serve(tiny, limits=Limits(slots=1, queue=0))
    (model,) = running.models
    with wire(running):
        assert until(lambda: model.scheduler.running == 1)
        for name in ("request", "text_ids"):  # what reads a prompt; without it, this is 500
            monkeypatch.setattr(model.engine, name, None)
        got = running.post(path, json=body)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "queue_full")
    assert running.settled()


def test_waiting_too_long_is_503_and_replying_too_long_504(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(slots=1, queue_seconds=0.1, seconds=0.5))
    with wire(running):
        assert until(lambda: running.models[0].scheduler.running == 1)
        late = running.post(CHAT, json=asking())
        assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
    assert running.settled()
    slow = running.models[0].scheduler._batch
    step = slow.step
    slow.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
    got = running.post(CHAT, json=asking())
    assert (got.status_code, got.json()["error"]["code"]) == (504, "timeout")
    with pytest.raises(openai.APIError, match="not complete after"):
        list(running.client().chat.completions.create(model="tiny", **asking(), stream=True))
    assert running.settled()


# --- clients that misbehave ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot_at_once(
    serve: Serve, tiny: LoadedModel, stream: bool
) -> None:
    running = serve(tiny, limits=Limits(slots=1))
    (model,) = running.models
    step = model.scheduler._batch.step
    model.scheduler._batch.step = lambda: (time.sleep(0.02), step())[1]  # type: ignore[method-assign]
    with wire(running, asking(stream=stream)):
        assert until(lambda: model.scheduler.running == 1)
        before = model.scheduler.steps
    assert running.settled(3)
    assert model.scheduler.steps - before < 150  # of 400: it did not decode to the end


def test_a_waiting_client_that_goes_away_leaves_the_queue(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(slots=1))
    (model,) = running.models
    with wire(running):
        assert until(lambda: model.scheduler.running == 1)
        with wire(running):
            assert until(lambda: model.scheduler.waiting == 1)
        assert until(lambda: model.scheduler.waiting == 0)
    assert running.settled()


def test_a_reader_that_reads_nothing_holds_up_nobody(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, limits=Limits(slots=2))
    held = [wire(running, asking(stream=True, logprobs=True, top_logprobs=20)) for _ in range(4)]
    got = running.client().chat.completions.create(model="tiny", **asking(50))
    assert got.usage is not None and got.usage.completion_tokens == 50
    assert running.settled(20)  # theirs are decoded too, and wait in buffers
    for connection in held:
        connection.close()


def test_clients_take_turns(serve: Serve, tiny: LoadedModel) -> None:
    """Somebody with one request does not wait for all of somebody with twenty."""
    running = serve(tiny, limits=Limits(slots=2))
    (model,) = running.models
    step = model.scheduler._batch.step
    # slower than any machine: most of the twenty still wait when the one comes
    model.scheduler._batch.step = lambda: (time.sleep(0.01), step())[1]  # type: ignore[method-assign]

    async def ask(client: httpx.AsyncClient, user: str, delay: float) -> tuple[str, float]:
        await asyncio.sleep(delay)
        got = await client.post(CHAT, json=asking(20, user=user))
        assert got.status_code == 200
        return user, time.monotonic()

    async def together() -> list[tuple[str, float]]:
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            many = [ask(client, "many", 0) for _ in range(20)]
            return await asyncio.gather(*many, ask(client, "one", 0.05))

    order = [user for user, _ in sorted(asyncio.run(together()), key=lambda pair: pair[1])]
    assert order.index("one") < 10


def test_a_failing_step_fails_its_replies_and_no_later_ones(
    serve: Serve, tiny: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(tiny)
    batch = running.models[0].scheduler._batch

    def broken() -> Any:
        raise RuntimeError("out of order")

    batch.step = broken  # type: ignore[method-assign]
    got = running.post(CHAT, json=asking())
    assert got.status_code == 500 and "log says why" in got.json()["error"]["message"]
    assert "out of order" in caplog.text
    assert running.post(CHAT, json=asking(3)).status_code == 200


def test_health_says_failed_while_no_reply_comes_to_its_end(
    serve: Serve, tiny: LoadedModel
) -> None:
    running = serve(tiny)
    decoder = running.models[0].engine._backend
    forward = decoder.forward

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of order")

    decoder.forward = broken  # type: ignore[method-assign]
    for status in (200, 200, 503):
        assert running.post(CHAT, json=asking(2)).status_code == 500
        assert httpx.get(f"{running.url}/health").status_code == status
    assert httpx.get(f"{running.url}/health").json()["status"] == "failed"
    assert 'stentor_failed_steps{model="tiny"} 3.0' in httpx.get(f"{running.url}/metrics").text
    decoder.forward = forward  # type: ignore[method-assign]
    assert running.post(CHAT, json=asking(2)).status_code == 200
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"


def test_stopping_finishes_the_streams_that_run(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny)
    stream = running.client().chat.completions.create(model="tiny", **asking(200), stream=True)
    next(iter(stream))
    running.server.should_exit = True
    reasons = [chunk.choices[0].finish_reason for chunk in stream]
    assert reasons[-1] == "length"
    running.thread.join(10)
    assert not running.thread.is_alive() and not running.models[0].scheduler.alive


# --- who may ask ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80", "10.0.0.1:80"]
)
def test_a_foreign_host_name_is_421(shared: Running, host: str) -> None:
    assert httpx.get(f"{shared.url}/v1/models", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:1", "LOCALHOST", "127.0.0.2:8000"]
)
def test_the_names_of_loopback_are_served(shared: Running, host: str) -> None:
    assert httpx.get(f"{shared.url}/v1/models", headers={"host": host}).status_code == 200


def test_no_answer_permits_another_origin(shared: Running) -> None:
    origin = {"origin": "https://evil.example"}
    got = httpx.options(
        f"{shared.url}{CHAT}", headers=origin | {"access-control-request-method": "POST"}
    )
    assert got.status_code == 405
    for answer in (got, httpx.get(f"{shared.url}/v1/models", headers=origin)):
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_with_a_key_only_its_holders_are_served(serve: Serve, tiny: LoadedModel) -> None:
    running = serve(tiny, api_key="correct horse")
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert httpx.get(running.url + path).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        running.client(api_key="wrong").models.list()
    assert [m.id for m in running.client(api_key="correct horse").models.list()] == ["tiny"]
    for path in ("/health", "/", "/app.js"):
        assert httpx.get(running.url + path).status_code == 200


def test_binding_elsewhere_needs_a_key() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert is_loopback(host)
        check_key(host, None, loopback=True)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(InputError, match="add --api-key KEY"):
            check_key(host, None, loopback=False)
    check_key("0.0.0.0", "long enough", loopback=False)
    with pytest.raises(InputError, match="shorter than 8"):
        check_key("127.0.0.1", "short", loopback=True)


@pytest.mark.parametrize("key", ["schlüssel-und-schloss", "with a\ttab", " space in front"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="clients can't send this API key"):
        check_key("127.0.0.1", key, loopback=True)


def test_a_port_in_use_is_one_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} can't be used: .*--port"):
            bind("127.0.0.1", port)
    with pytest.raises(InputError, match="there is no address"):
        bind("no such host", 0)


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/app.js", "text/javascript"), ("/style.css", "text/css")],
)
def test_the_page_is_served_under_a_strict_policy(shared: Running, path: str, kind: str) -> None:
    got = httpx.get(shared.url + path)
    assert got.status_code == 200 and got.headers["content-type"].startswith(kind)
    policy = got.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/page/index.html", "//etc/passwd", "/app.py", "/."]
)
def test_no_path_reaches_the_file_system(shared: Running, path: str) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 404")


def test_nothing_that_the_page_loads_lies_elsewhere(shared: Running) -> None:
    for path in ("/", "/app.js", "/view.js", "/settings.js", "/backend.js", "/style.css"):
        text = httpx.get(shared.url + path).text
        assert "http://" not in text and "https://" not in text and " style=" not in text
        assert "innerHTML" not in text


# --- the command --------------------------------------------------------------------------------


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "stentor.serve.command")
    with pytest.raises(MissingExtra, match=r"run: pip install 'stentor\[serve\]'"):
        importlib.import_module("stentor.serve.command")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_serves_and_ends_with_0(number: int) -> None:
    command = Path(sys.executable).with_name("stentor")
    process = subprocess.Popen(
        [command, "serve", "preset:stentor-2m", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process, process.stderr:
        try:
            line = process.stderr.readline()
            assert line.startswith("serving preset:stentor-2m at http://127.0.0.1:")
            url = line.split(" at ")[1].split()[0]
            assert until(lambda: answers(url), 60)
            process.send_signal(number)
            assert process.wait(60) == 0
            # what decodes may be told after the address; nothing else, no traceback
            told = process.stderr.read().splitlines()
            assert [t for t in told if not t.startswith(("making a copy", "decoding: "))] == []
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.ConnectError:
        return False
