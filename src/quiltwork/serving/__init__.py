"""One process, many models: chains of shared blocks executed in common batches."""
