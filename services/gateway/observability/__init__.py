"""What is told of requests while they are served: metrics, comparisons, access log, traces."""
