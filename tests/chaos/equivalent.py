"""Mutants that change nothing that anybody could notice, each with the reason; they count on neither side.

A key is how their names begin (`Mutant.name`).
"""

_FILES = "shared/artefacts/files.py: "
_CHECKPOINTS = "shared/artefacts/checkpoints.py: "

_MEMORY = "shared/jobs/memory_records.py: "
_RECORD = "shared/adapters/redis_jobs_record.lua: "

EQUIVALENT: dict[str, str] = {
    _RECORD + "load: if not found[1] then": "every record has a state and a kind",
    _MEMORY + "Record: 0.0": "a time a second around the clock's beginning is as long ago",
    _MEMORY + "Records._put_aside: 0.0": "a lease until a second after the clock's beginning is over as well",
    _RECORD + "put_aside: job.pause = false": "nothing reads it before the record is loaded again",
    "shared/datasets/images.py: _check_header: data.rfind(_PNG_END) < 0  →  data.rfind(_PNG_END) <= 0": (
        "a PNG begins with its signature, so its end is not at 0"
    ),
    _CHECKPOINTS + "last_checkpoint: 0.0": "every file was written later than a second after 1970",
    _FILES + "_temporary_directory: os.O_RDONLY | ": "it is a folder of ours, and no exec follows",
    _FILES + "sweep_temporaries: os.O_RDONLY | ": "nobody makes links of that name, and no exec follows",
    _FILES + "exclusive_lock: os.O_RDWR | os.O_CREAT | os.O_CLOEXEC": "no exec follows while it is open",
    _FILES + "sync_directory: os.O_RDONLY | ": "what is opened is a folder",
    _FILES + "_sync: flags | os.O_CLOEXEC": "no exec follows while it is open",
    _FILES + "sweep_temporaries: continue": "nothing comes after it in that branch but the end of the turn",
}


def reason_why_equivalent(name: str) -> str | None:
    """Return why a mutant of this name changes nothing; None where it does."""
    return next((reason for begin, reason in EQUIVALENT.items() if name.startswith(begin)), None)
