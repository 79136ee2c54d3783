"""Word vectors: trained on a corpus, kept in a folder, and pooled into a sentence's."""
