"""What every test may use."""

pytest_plugins = ["tests.support.redis_server"]
