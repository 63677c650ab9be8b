"""What every test may use, and what holds in all of them: tensors have the shapes that signatures promise."""

import os

import jaxtyping

# Before any of these modules is imported: their functions check shapes and types on every call.
jaxtyping.install_import_hook(["shared.distillation", "shared.models"], "beartype.beartype")

pytest_plugins = ["tests.support.redis_server"]

# What a developer's shell says about an installation of theirs is not for the tests.
for _name in [name for name in os.environ if name.startswith(("IMAGO_STATE", "IMAGO_TRANSFER", "AWS_"))]:
    del os.environ[_name]
