"""How well scores of pairs agree with what people say: gold sets, correlations, protocols, tables."""
