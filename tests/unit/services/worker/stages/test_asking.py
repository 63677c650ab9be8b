"""Who asks the teacher for a job: with which key, and on whose budget."""

from pathlib import Path

import httpx
import pytest

from services.worker.protocol import ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.asking import teacher_client
from services.worker.stages.context import JobContext
from shared.artefacts.store import ArtefactStore
from shared.contracts.keys import KeyLimits, KeyRequest, Scope
from shared.errors import TeacherBudgetSpent
from tests.support.asgi_server import served
from tests.support.jobs import teacher_spec
from tests.support.teachers import publish, random_images


@pytest.mark.parametrize(("admin", "pays"), [(True, "submitter"), (False, "worker")])
def test_what_a_job_asks_counts_for_who_submitted_it_where_the_workers_key_may_say_so(
    tmp_path: Path, admin: bool, pays: str
):
    from services.teacher.app import create_app
    from services.teacher.settings import TeacherSettings

    teacher = publish(tmp_path / "store")
    store = ArtefactStore(tmp_path / "store")
    store.owners.add("teachers", "shapes", "w")
    limits = KeyLimits(teacher_rows=50)
    made = {
        "worker": store.keys.make(
            KeyRequest(
                name="w", owner="w", scopes=(Scope.ADMIN if admin else Scope.TEACH,),
                limits=KeyLimits() if admin else limits,
            )
        ),
        "submitter": store.keys.make(
            KeyRequest(name="s", owner="s", scopes=(Scope.JOBS,), limits=limits)
        ),
    }  # fmt: skip
    key_file = tmp_path / "key"
    key_file.write_text(made["worker"].key)
    reader = store.keys.make(KeyRequest(name="r", owner="r", scopes=(Scope.ADMIN,)))
    with served(create_app(TeacherSettings(state_dir=tmp_path, device="cpu", auth="keys"))) as url:
        settings = WorkerSettings(state_dir=tmp_path, teacher_url=url, teacher_key_file=key_file)
        order = ChildOrder(job_id="j", epoch=1, attempts=1, spec=teacher_spec(), key_id=made["submitter"].id)
        context = JobContext(order, settings, store, lambda _message: None)
        with teacher_client(context) as client:
            asked = {"temperature": 1.0, "expected_digest": teacher.digest}
            dict(client.soft_targets("shapes", [random_images(40)], **asked))
            found = httpx.get(f"{url}/v1/budgets", headers={"Authorization": f"Bearer {reader.key}"})
            taken = {one["key_id"]: one["taken"] for one in found.json()["budgets"] if one["taken"]}
            assert taken == {made[pays].id: 40}
            with pytest.raises(TeacherBudgetSpent) as raised:
                dict(client.soft_targets("shapes", [random_images(11)], **asked))
            assert raised.value.left == 10
