"""What blocks and links cost, from tables that somebody measured: ours (``quiltwork serve profile``) and Vidur's."""
