"""Traffic: who answers how much of it, who is asked beside it, and what is kept of it."""
