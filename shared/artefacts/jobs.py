"""Where a job keeps its stages' output: `jobs/<id>/<stage>-<digest>`, and its report."""

from pathlib import Path

from shared.artefacts.names import is_version
from shared.contracts.jobs import Stage


class JobFiles:
    """The folder of one job. Paths only: whoever writes a stage's output publishes it by `files`."""

    def __init__(self, root: Path, job_id: str) -> None:
        if not is_version(job_id):
            raise ValueError(f"a job's id cannot be {job_id!r}")
        self.directory = root / job_id

    def stage(self, stage: Stage, digest: str) -> Path:
        """Return where a stage's output lies, named by the digest of its inputs."""
        return self.directory / f"{stage.value}-{digest[:16]}"

    @property
    def attempts(self) -> Path:
        """The folder of what an attempt leaves for the next one: small files, gone when a stage is done."""
        return self.directory / "attempts"

    @property
    def checkpoints(self) -> Path:
        """The folder of the trainings' checkpoints, a folder each."""
        return self.directory / "checkpoints"

    @property
    def report_json(self) -> Path:
        """The report for programs."""
        return self.directory / "report.json"

    @property
    def report_md(self) -> Path:
        """The report for people."""
        return self.directory / "report.md"
