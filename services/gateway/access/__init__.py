"""Who may ask for what at the gateway, and for how much of it."""
