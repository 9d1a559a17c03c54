"""Several recipes and seeds, resumable, one table: what `stentor sweep` does."""
