"""Which files are mutated, and which tests should notice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One file. `only` bounds it to functions whose names begin so; `keyword` chooses among the tests."""

    path: str
    tests: Sequence[str]
    only: tuple[str, ...] = ()
    keyword: str = ""


_UNIT = "tests/unit/shared"
_ACCESS = "tests/unit/services/gateway/access"
_RECORD = (
    "tests/contract/test_job_record_edges.py",
    "tests/contract/test_job_store.py",
    "tests/contract/test_job_pauses.py",
    "tests/contract/test_child_jobs.py",
    "tests/contract/test_job_owners.py",
    "tests/contract/test_job_events.py",
    "tests/contract/test_acquire_again.py",
    "tests/contract/test_most_jobs.py",
)
_IN_REDIS = ("tests/contract/test_job_record_redis_times.py", *_RECORD)
_IN_MEMORY = (f"{_UNIT}/jobs/test_memory_store_times.py", *_RECORD)
_IMAGES = (
    f"{_UNIT}/datasets/test_image_limits.py",
    f"{_UNIT}/datasets/test_image_header_edges.py",
    f"{_UNIT}/datasets/test_image_headers.py",
    f"{_UNIT}/datasets/test_images.py",
)
_KEYS = (
    f"{_UNIT}/adapters/test_web_keyring_lookups.py",
    f"{_UNIT}/adapters/test_web_keyring.py",
)

GROUPS: Mapping[str, Sequence[Target]] = {
    "checkpoint": (
        Target("shared/artefacts/checkpoints.py", [f"{_UNIT}/artefacts/test_checkpoints.py"]),
        Target(
            "shared/artefacts/files.py",
            [f"{_UNIT}/artefacts/test_files_durable.py", f"{_UNIT}/artefacts/test_files.py"],
        ),
        Target("shared/distillation/checkpoint.py", [f"{_UNIT}/distillation/test_checkpoint.py"]),
    ),
    "lease": (
        Target("shared/adapters/redis_jobs.lua", _IN_REDIS, keyword="redis"),
        Target("shared/adapters/redis_jobs_record.lua", _IN_REDIS, keyword="redis"),
        Target("shared/jobs/memory_store.py", _IN_MEMORY, keyword="memory"),
        Target("shared/jobs/memory_records.py", _IN_MEMORY, keyword="memory"),
    ),
    "auth": (
        Target("shared/adapters/web/keyring.py", _KEYS),
        Target("shared/adapters/web/access.py", [f"{_UNIT}/adapters/test_web_guard.py", *_KEYS]),
        Target("shared/adapters/web/guard.py", [f"{_UNIT}/adapters/test_web_guard.py"]),
        Target(
            "shared/artefacts/keys.py",
            [f"{_UNIT}/artefacts/test_keys.py", f"{_UNIT}/adapters/test_web_keyring.py"],
        ),
        Target(
            "shared/adapters/web/scopes.py",
            [f"{_UNIT}/adapters/test_web_scopes.py", f"{_UNIT}/adapters/test_web_guard.py"],
        ),
        Target("shared/artefacts/owners.py", [f"{_UNIT}/artefacts/test_owners.py"]),
    ),
    "limits": (
        Target("shared/datasets/images.py", _IMAGES),
        Target("shared/datasets/image_headers.py", _IMAGES),
        Target(
            "shared/adapters/web/boundary.py",
            [f"{_UNIT}/adapters/test_web_boundary_edges.py", f"{_UNIT}/adapters/test_web_boundary.py"],
        ),
        Target(
            "services/gateway/access/limits.py",
            [f"{_ACCESS}/test_limits_news.py", f"{_ACCESS}/test_limits.py"],
        ),
        Target("services/gateway/access/allowance.py", [f"{_ACCESS}/test_allowance.py"]),
        Target("shared/adapters/redis_limits.lua", ["tests/contract/test_redis_limits.py"]),
        Target("services/teacher/ledger.py", ["tests/unit/services/teacher/test_ledger.py"]),
    ),
}
