"""Runs jobs stage by stage; Celery wakes it."""
