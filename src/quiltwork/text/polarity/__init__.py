"""Whether a sentence says the opposite of another: negation, antonyms, and a score that is not blind to them."""
