"""What both HTTP services have in common: problems, request ids, limits, metrics."""
