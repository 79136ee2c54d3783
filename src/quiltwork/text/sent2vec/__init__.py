"""Vectors of words and word n-grams learnt so that their mean foretells a sentence's missing word (sent2vec)."""
