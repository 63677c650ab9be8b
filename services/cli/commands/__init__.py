"""The commands of `imago`, one file a group; each only on the public API."""
