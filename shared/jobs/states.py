"""Which moves a job's state may make. The words are in `shared.contracts.jobs`."""

from shared.contracts.jobs import JobState

ARROWS: dict[JobState, frozenset[JobState]] = {
    # To a worker; or cancelled, paused, or given up because its attempts are spent, before a worker took it.
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED}),
    # To its end; back to the queue when its worker stops; to another worker when its lease lapsed; to wait
    # for the child jobs that it made; aside, when its worker has left with a checkpoint.
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.WAITING,
            JobState.PAUSED,
        }
    ),
    # Back to the queue with the end of its last child; or paused or cancelled, its children with it.
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.CANCELLED}),
    # Resumed: to the queue, or to wait again for children that have not ended.
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""From each state, the states that may come next. Both stores keep to it, and the tests hold them to it."""
