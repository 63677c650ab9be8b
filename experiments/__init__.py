"""Every experiment of the sources as a named spec: run it, and compare with the published figure."""
