"""Words and seams every room shares. Standard library and numpy only."""
