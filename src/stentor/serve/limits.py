"""How much one server takes on; every limit has its own answer when it is passed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The defaults suit a laptop. Passing one is answered with the status in brackets."""

    body: int = 256 * 1024
    """Bytes of a request's body [413]."""
    head_seconds: float = 10.0
    """For the head of a request to arrive, from the connection or its first byte on [408]."""
    body_seconds: float = 10.0
    """For the body to arrive [408]."""
    new_tokens: int | None = None
    """Most tokens that a request may ask for [400]; None: what the window holds, silently."""
    choices: int = 8
    """Largest `n` times prompts of one request [400]."""
    slots: int = 32
    """Replies decoded at the same time; others wait."""
    queue: int = 256
    """Replies that wait, of all clients together [503]."""
    client_queue: int = 128
    """Replies of one client that wait [429]."""
    queue_seconds: float = 60.0
    """For a reply to get its turn [503]."""
    seconds: float = 120.0
    """For a whole reply, from its turn on [504; in a stream, an error event]."""
    write_seconds: float = 30.0
    """For a reader to take some of its stream; then the stream is dropped."""
    grace: int = 30
    """Seconds that running replies have to finish when the server is stopped."""
