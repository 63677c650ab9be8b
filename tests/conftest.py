"""What every test may use, and what holds in all of them: tensors have the shapes that signatures promise."""

import jaxtyping

# Before any of these modules is imported: their functions check shapes and types on every call.
jaxtyping.install_import_hook(["shared.distillation", "shared.models"], "beartype.beartype")

pytest_plugins = ["tests.support.redis_server"]
