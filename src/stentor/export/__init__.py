"""Exports: one file per format, and the one parity check that all of them must pass."""
