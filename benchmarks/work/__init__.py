"""What benchmarks share: the fleet of models, the sides that serve it, the requests, the comparison of answers."""
