"""Presets, the tokenizer, loading a base, adapters, merging, the forward pass."""
