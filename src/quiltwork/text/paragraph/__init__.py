"""A sentence's vector from a finished word2vec with hierarchical softmax, whose own vectors stay as they are."""
