"""One loop; phases, optimisers, schedule, moving average, checkpoints; pretraining uses it too."""
