"""Servers lent between serving and training, and jobs that grow and shrink with them."""
