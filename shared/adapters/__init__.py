"""The shared parts that do speak to the outside: Redis, Celery, HTTP."""
