"""Setting thresholds and levels: statistics of the activations, and what to choose from them. No model, no files."""
