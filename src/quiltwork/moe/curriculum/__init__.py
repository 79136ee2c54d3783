"""Which samples are trained on together: those that need about as many experts, so that nobody waits for a slow one."""
