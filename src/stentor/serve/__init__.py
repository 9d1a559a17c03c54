"""`stentor serve`: the OpenAI-compatible HTTP API over the one decoding engine, and the page."""
