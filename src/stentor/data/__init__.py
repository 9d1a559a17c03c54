"""Sources, mixing, splitting, encoding, batching; and the corpus for pretraining."""
