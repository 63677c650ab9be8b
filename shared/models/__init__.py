"""Networks by name, and how their weights are kept."""
