"""The policy that holds in this process: which student answers a request, and when the teacher is asked."""

from services.gateway.live import Live
from shared.contracts.traffic import TrafficPolicy
from shared.serving.session import StudentSession


class Traffic:
    """Who answers. `student` and `threshold` are on the way of every prediction."""

    def __init__(self, live: Live) -> None:
        self.policy = TrafficPolicy()
        """What holds now."""
        self._live = live

    def student(self, key: str | None) -> StudentSession:
        """Return the student that answers a request.

        Args:
            key: what the client calls itself, so that all its requests get the same student.

        Raises:
            NoLiveStudent: none was promoted yet.
            StudentNotLoaded: one was promoted, but it could not be loaded and there is no earlier one.
        """
        return self._live.student()

    def threshold(self, student: StudentSession) -> float | None:
        """Return the confidence below which the teacher is asked in place of the student, None for never."""
        return None
