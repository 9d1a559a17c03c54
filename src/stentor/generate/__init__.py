"""THE decoding engine: chat, generate, the probe and the export checks all reply through it."""

from stentor.generate.engine import Decoding, Engine, Reply

__all__ = ["Decoding", "Engine", "Reply"]
