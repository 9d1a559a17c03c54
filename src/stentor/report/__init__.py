"""What a run learned, for people: the card is written from the run's own report."""
