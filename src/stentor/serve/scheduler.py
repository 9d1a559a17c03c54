"""Continuous batching: one thread steps a running batch, which replies join and leave.

Between two steps whoever waits takes the free slots. The client with the fewest replies running
comes first, so nobody is starved by somebody with many requests. How many may wait is counted by
address, since a client can make up as many users as it likes. The thread never waits for a
reader: what it draws goes to `deliver`, once a step for all replies together.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stentor.errors import StentorError
from stentor.generate.engine import Engine
from stentor.generate.running import Drawn, Request
from stentor.generate.text import Spelling

_PREFILL = 1024
"""Tokens of prompts that are computed between two steps: longer ones would make streams stutter."""
_BROKEN = 3
"""Failed steps without a reply that came to its end between them: then the server is broken."""

Client = tuple[str, str]
"""The address that a request came from, and the user that it names ("" where it names none)."""

log = logging.getLogger("stentor.serve")


class Busy(StentorError):
    """There is no room in the queue; `own` tells whether the share of its address is full."""

    def __init__(self, waiting: int, *, own: bool) -> None:
        super().__init__(f"{waiting} replies are waiting already; try again in a second")
        self.own = own


class Closing(StentorError):
    """The server is being stopped and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("the server is being stopped; try another one, or later")


@dataclass(frozen=True)
class Event:
    """What became of a reply in one step: more text, and in the last event why it ended.

    `end` is `stop`, `length` or, where our own work failed, `error`.
    """

    text: str
    drawn: tuple[Drawn, ...] = ()
    end: str | None = None
    tokens: int = 0
    """How many tokens the reply has so far, the stop token included."""
    started: bool = False
    """The reply has got its turn; nothing else is in this event."""


@dataclass(eq=False)
class Job:
    """One reply to be decoded for a client."""

    request: Request
    spelling: Spelling
    client: Client
    index: int = 0
    tokens: int = 0
    held: list[Drawn] = field(default_factory=list)
    cancelled: bool = False

    def event(self, drawn: Drawn) -> Event | None:
        """What the client may see of one more token; None when nothing."""
        self.tokens += 1
        self.held.append(drawn)
        text, end = self.spelling.add(drawn.token), drawn.end
        if end:
            text += self.spelling.end()
        if self.spelling.stopped:
            end = "stop"
        if not text and not end:
            return None
        seen, self.held = tuple(self.held), []
        return Event(text, seen, end, self.tokens)


Delivery = Callable[[list[tuple[Job, Event]]], None]


class Scheduler:
    """The running batch of one model, in a thread of its own."""

    def __init__(
        self, engine: Engine, deliver: Delivery, *, slots: int, queue: int, client_queue: int
    ) -> None:
        self._engine, self._deliver = engine, deliver
        self._slots, self._queue, self._client_queue = slots, queue, client_queue
        self._waiting: dict[Client, deque[Job]] = {}
        self._cancelled: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._batch = engine.running()
        self._jobs: dict[Request, Job] = {}
        self.steps = 0
        self.failures = 0
        """How many steps have failed in all."""
        self._row = 0  # how many since a reply came to its end
        self._thread = threading.Thread(target=self._run, name="stentor-decoding", daemon=True)

    @property
    def running(self) -> int:
        """How many replies are being decoded."""
        return len(self._jobs)

    @property
    def waiting(self) -> int:
        """How many replies wait for a slot."""
        with self._changed:
            return self._count()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def working(self) -> bool:
        """Whether replies come to their end, as far as can be told."""
        return self.alive and self._row < _BROKEN

    def start(self) -> None:
        self._thread.start()

    def check(self, client: Client, count: int) -> None:
        """Raises Busy or Closing where so many replies of a client can't be queued now."""
        with self._changed:
            if self._closing:
                raise Closing
            waiting, own = self._count(), self._count(client[0])
            free = self._slots - len(self._jobs)
            if waiting + count > self._queue + free:
                raise Busy(waiting, own=False)
            if own + count > self._client_queue + free:
                raise Busy(own, own=True)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of them, which are one client's, or none: raises Busy or Closing."""
        with self._changed:
            self.check(jobs[0].client, len(jobs))
            for job in jobs:
                self._waiting.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Forget them wherever they are, if anywhere; nothing more is delivered."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
                self._cancelled.append(job)
            self._changed.notify()

    def close(self, *, timeout: float) -> None:
        """Take nothing new, finish what was taken (for `timeout` seconds), and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.cancel(list(self._jobs.values()))
            with self._changed:
                self._waiting.clear()
                self._changed.notify()
            self._thread.join(10)

    def _count(self, address: str | None = None) -> int:
        """How many replies wait: all, or those of one address."""
        lines = self._waiting.items()
        return sum(len(line) for (of, _), line in lines if address in (None, of))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._waiting or self._cancelled or self._closing):
                    self._changed.wait()
                gone, self._cancelled = self._cancelled, []
                self._forget(gone)
                if self._closing and not self._jobs and not self._waiting:
                    return
                chosen = self._next()
            try:
                self._work(chosen, gone)
            except Exception:
                log.exception("a decoding step failed")
                self.failures += 1
                self._row += 1
                self._fail([*chosen, *self._jobs.values()])

    def _forget(self, gone: Iterable[Job]) -> None:
        """Take cancelled replies out of the queue."""
        for job in gone:
            line = self._waiting.get(job.client)
            if line and job in line:
                line.remove(job)
                if not line:
                    del self._waiting[job.client]

    def _next(self) -> list[Job]:
        """The replies that get their turn now: those of the clients with the fewest running."""
        running = Counter(job.client for job in self._jobs.values())
        chosen: list[Job] = []
        size = 0
        while self._waiting and len(self._jobs) + len(chosen) < self._slots:
            client = min(self._waiting, key=lambda name: running[name])
            line = self._waiting[client]
            size += len(line[0].request.ids)
            if chosen and size > _PREFILL:
                break
            chosen.append(line.popleft())
            running[client] += 1
            del self._waiting[client]
            if line:  # to the end, so that equals take turns
                self._waiting[client] = line
        return chosen

    def _work(self, chosen: list[Job], gone: list[Job]) -> None:
        """Drop who left, draw one token for who runs, and take in who waited."""
        for job in gone:
            if self._jobs.pop(job.request, None) is not None:
                self._batch.leave(job.request)
        drawn: list[Drawn] = []
        if len(self._batch):
            drawn += self._batch.step()
            self.steps += 1
        groups: dict[tuple[int, ...], list[Job]] = {}
        for job in chosen:
            self._jobs[job.request] = job
            groups.setdefault(tuple(job.request.ids[: job.request.lead]), []).append(job)
        if chosen:
            self._deliver([(job, Event("", started=True)) for job in chosen])
        for group in groups.values():
            drawn += self._batch.join([job.request for job in group])
        self._tell(drawn)

    def _tell(self, drawn: list[Drawn]) -> None:
        """Deliver the text of new tokens; end what a stop sequence ends."""
        events: list[tuple[Job, Event]] = []
        for one in drawn:
            job = self._jobs[one.request]
            event = job.event(one)
            if event is None:
                continue
            if event.end:
                self._row = 0
                del self._jobs[one.request]
                if not one.end:
                    self._batch.leave(one.request)
            if not job.cancelled:
                events.append((job, event))
        if events:
            self._deliver(events)

    def _fail(self, jobs: list[Job]) -> None:
        """Tell everybody in the batch that it is lost, and begin a new one."""
        self._jobs.clear()
        self._batch = self._engine.running()
        lost = {id(job): job for job in jobs}.values()
        self._deliver([(job, Event("", end="error", tokens=job.tokens)) for job in lost])
