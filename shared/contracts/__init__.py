"""The typed messages that cross a process boundary. Loads neither torch nor a server."""
