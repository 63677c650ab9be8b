"""Which students are in memory: the live one, and others that somebody named."""
