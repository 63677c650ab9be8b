"""One folder a running process; each only joins the core to the outside world."""
