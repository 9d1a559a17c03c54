"""Stentor: a tiny Llama base model made into a small chat model, safe and useful."""

__version__ = "0.1.0"
