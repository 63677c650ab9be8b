"""The teachers that answer: read from the artefact store, checked, kept in memory while they are asked."""

import logging
import threading
from collections import OrderedDict
from functools import partial
from weakref import WeakValueDictionary

import torch
from prometheus_client import Gauge

from shared.adapters.oip import OipModel
from shared.adapters.oip_hosts import AllowedHosts
from shared.artefacts.teachers import TeacherStore
from shared.contracts.teachers import MemberTeacher, MixedEnsemble, RemoteModel, TeacherDescription
from shared.errors import Corrupt, TeacherChanged, TeacherNotFound
from shared.models.answering import AnsweringTeacher
from shared.models.making import Means, teacher_of
from shared.models.probes import PROBE
from shared.models.remote import ADD_AGAIN

log = logging.getLogger(__name__)

HELD = Gauge("imago_teacher_held", "Teachers in memory")


class Teachers:
    """Teachers by name, as the store has them now; the least recently asked leave memory first.

    The store is read anew for every call: two small files, so that a teacher published or replaced a moment
    ago answers, and nothing has to be told. Calls block; they may come from several threads.

    Args:
        store: where teachers are published.
        device: where they answer.
        max_held: how many stay in memory. An ensemble of other teachers counts as one; a member that is in
            memory already is shared.
        oip_hosts: the servers that may be asked for teachers that are elsewhere.
        oip_timeout_s: for one answer of such a server.
        probe_every_s: how often such a server is compared with its probe while it is asked.
    """

    def __init__(
        self,
        store: TeacherStore,
        *,
        device: torch.device,
        max_held: int,
        oip_hosts: AllowedHosts | None = None,
        oip_timeout_s: float = 30.0,
        probe_every_s: float = 60.0,
    ) -> None:
        self.device = device
        self._store = store
        self._max_held = max_held
        self._oip_hosts = oip_hosts or AllowedHosts()
        self._oip_timeout_s = oip_timeout_s
        self._probe_every_s = probe_every_s
        self._held: OrderedDict[str, AnsweringTeacher] = OrderedDict()
        self._alive: WeakValueDictionary[str, AnsweringTeacher] = WeakValueDictionary()
        """By digest: those held, members of those held, and what a request still uses."""
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def names(self) -> list[str]:
        """Return the names under which a teacher answers, sorted."""
        return self._store.names()

    def describe(self, name: str) -> TeacherDescription:
        """Return the description of the teacher of this name.

        Raises:
            TeacherNotFound: there is none.
            Corrupt: its files contradict each other.
        """
        return self._store.current(name)

    def describe_all(self) -> list[TeacherDescription]:
        """Return the descriptions of all teachers by name; damaged ones are logged and left out."""
        found = []
        for name in self._store.names():
            try:
                found.append(self._store.current(name))
            except (Corrupt, TeacherNotFound) as error:
                log.warning("teacher left out of the list", extra={"teacher": name, "detail": str(error)})
        return found

    def hold(
        self, name: str, expected_digest: str | None = None
    ) -> tuple[TeacherDescription, AnsweringTeacher]:
        """Return the teacher of this name, loaded and checked.

        Args:
            name: of the teacher.
            expected_digest: of the teacher that the caller wants, if it has to be a certain one.

        Raises:
            TeacherNotFound: there is no teacher of this name.
            TeacherChanged: the name stands for another digest, or that of a member of the ensemble does.
            Corrupt: its files are not what its digest says.
            TeacherAnswerInvalid: its weights make no net, or one that answers no finite numbers.
            DistillationError: what else `teacher_of` raises.
        """
        description = self._described(name, expected_digest)
        held = self._find(description.digest)
        if held is None:
            with self._loading:  # one at a time: whoever waited finds it loaded
                held = self._find(description.digest) or self._load(description)
        return description, held

    def _described(self, name: str, expected_digest: str | None) -> TeacherDescription:
        """Return the description of a name, after comparing digests, those of members as well."""
        description = self._store.current(name)
        if expected_digest is not None and expected_digest != description.digest:
            raise TeacherChanged(name, expected_digest, description.digest)
        if isinstance(description.model, MixedEnsemble):
            for member in description.model.members:
                self._need_member(description, member)
        return description

    def _need_member(self, whole: TeacherDescription, member: MemberTeacher) -> None:
        try:
            self._described(member.name, member.digest)
        except TeacherChanged as error:
            raise TeacherChanged(
                whole.name, whole.digest, "", reason=f"its member {error}", remedy=ADD_AGAIN
            ) from error

    def _find(self, digest: str) -> AnsweringTeacher | None:
        with self._lock:
            held = self._held.get(digest)
            if held is not None:
                self._held.move_to_end(digest)
            return held

    def _load(self, description: TeacherDescription) -> AnsweringTeacher:
        with self._lock:  # make room before, so that the device never holds one more than allowed
            while len(self._held) >= self._max_held:
                self._held.popitem(last=False)
        teacher = self._alive_or_made(description)
        with self._lock:
            self._held[description.digest] = teacher
            HELD.set(len(self._held))
        return teacher

    def _alive_or_made(self, description: TeacherDescription) -> AnsweringTeacher:
        found = self._alive.get(description.digest)
        if found is not None:
            return found
        if isinstance(description.model, RemoteModel) and PROBE not in description.files:
            raise Corrupt(f"{description.name}/{description.digest}/{PROBE}")
        teacher = teacher_of(
            description,
            Means(
                file=partial(self._store.file, description),
                server=self._server,
                member=self._member,
                device=self.device,
                probe_every_s=self._probe_every_s,
            ),
        )
        self._alive[description.digest] = teacher
        log.info("teacher loaded", extra={"teacher": description.name, "digest": description.digest})
        return teacher

    def _member(self, member: MemberTeacher) -> AnsweringTeacher:
        return self._alive_or_made(self._described(member.name, member.digest))

    def _server(self, model: RemoteModel) -> OipModel:
        return OipModel(model, self._oip_hosts, timeout_s=self._oip_timeout_s)
