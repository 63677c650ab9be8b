"""The kinds of job, a module a kind: its stages in their order, each done once."""
