import json
from typing import get_args

import pytest

from shared.contracts.jobs import JobResult, JobView
from shared.contracts.specs import JobKind, TeacherSpec
from shared.errors import JobStoreUnavailable
from tests.support.gateway_in_process import refused
from tests.support.teachers_at_rest import publish_teacher

TEACHER = {"kind": "teacher", "name": "digits-teacher", "dataset": "mnist-5k"}
DISTILLATION = {"kind": "distillation", "name": "digits", "teacher": "digits-teacher", "dataset": "mnist-5k"}


def submit(gateway, spec, **headers):
    return gateway.client.post("/v1/jobs", json=spec, headers=headers)


def submit_text(gateway, text):
    return gateway.client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})


@pytest.fixture
def teacher(gateway):
    return publish_teacher(gateway.store, "digits-teacher")


# --- submit ---


def test_a_job_is_recorded_announced_and_found_where_location_says(gateway):
    answer = submit(gateway, TEACHER)
    assert answer.status_code == 201
    job = JobView.model_validate_json(answer.content)
    assert gateway.dispatcher.sent == [job.id]
    assert answer.headers["Location"] == f"/v1/jobs/{job.id}"
    assert JobView.model_validate_json(gateway.client.get(answer.headers["Location"]).content) == job


def test_the_same_key_and_body_answer_with_the_same_job(gateway):
    first = submit(gateway, TEACHER, **{"Idempotency-Key": "k-1"})
    again = submit(gateway, TEACHER, **{"Idempotency-Key": "k-1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert len(gateway.dispatcher.sent) == 1


def test_the_same_key_with_another_body_is_refused(gateway):
    submit(gateway, TEACHER, **{"Idempotency-Key": "k-1"})
    answer = submit(gateway, TEACHER | {"seeds": [7]}, **{"Idempotency-Key": "k-1"})
    refused(answer, 409, "idempotency-conflict")


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
def test_a_key_that_is_no_key_is_refused(gateway, key):
    refused(submit(gateway, TEACHER, **{"Idempotency-Key": key}), 422, "request-invalid")


def test_a_distillation_from_a_teacher_that_is_there_is_accepted(gateway, teacher):
    assert submit(gateway, DISTILLATION).status_code == 201


# --- refusals: what was asked for ---


def with_objective(**fields):
    return DISTILLATION | {"objective": fields}


HINT = {"weight": 1, "student_layer": "hidden.0", "teacher_layer": "hidden.0"}
ATTENTION = {"weight": 1, "layers": [["hidden.0", "hidden.0"]]}
REFUSED = {
    "unknown teacher": (DISTILLATION | {"teacher": "nobody"}, 404, "teacher-not-found"),
    "unknown dataset": (DISTILLATION | {"dataset": "nothing"}, 404, "dataset-not-found"),
    "built-in dataset without files": (TEACHER | {"dataset": "mnist"}, 404, "dataset-not-found"),
    "unknown architecture": (
        DISTILLATION | {"student": {"network": {"architecture": "transformer"}}}, 422, "unknown-architecture",
    ),
    "a configuration that names a hub": (
        DISTILLATION | {"student": {"network": {
            "architecture": "transformers",
            "config": {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/net"},
        }}},
        422, "architecture-invalid",
    ),
    "temperature in words": (with_objective(temperature="hot"), 422, "invalid-temperature"),
    "temperature true": (with_objective(temperature=True), 422, "invalid-temperature"),
    "temperature 0": (with_objective(temperature=0), 422, "invalid-temperature"),
    "temperature below 0": (with_objective(temperature=-4.0), 422, "invalid-temperature"),
    "temperature null": (with_objective(temperature=None), 422, "invalid-temperature"),
    "temperature beyond floats": (with_objective(temperature=10**400), 422, "invalid-temperature"),
    "a negative weight": (with_objective(soft_weight=-0.5), 422, "invalid-weights"),
    "both weights 0": (with_objective(soft_weight=0, hard_weight=0), 422, "invalid-weights"),
    "a hint alone": (with_objective(soft_weight=0, hint=HINT), 422, "head-untaught"),
    "attention alone": (with_objective(soft_weight=0, attention=ATTENTION), 422, "head-untaught"),
    "a hint beside decoupled weights of 0": (
        with_objective(soft_weight=0, hint=HINT, decoupled={"target_weight": 0, "non_target_weight": 0}),
        422, "head-untaught",
    ),
    "a seed twice": (DISTILLATION | {"seeds": [0, 1, 1]}, 422, "request-invalid"),
    "a teacher's seed twice": (TEACHER | {"seeds": [3, 3]}, 422, "request-invalid"),
    "other classes": (
        DISTILLATION | {"student": {"classes": ["cat", "dog"]}}, 422, "class-mismatch",
    ),
    "an unknown field": (TEACHER | {"epochs": 3}, 422, "request-invalid"),
    "an unknown kind": (TEACHER | {"kind": "miracle"}, 422, "request-invalid"),
    "a name that is a path": (TEACHER | {"name": "../teacher"}, 422, "request-invalid"),
    "no epochs": (TEACHER | {"budget": {"epochs": 0}}, 422, "request-invalid"),
    "a list": ([TEACHER], 422, "request-invalid"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_job_that_cannot_end_well_is_refused_before_it_costs_anything(gateway, teacher, case):
    spec, status, code = REFUSED[case]
    refused(submit(gateway, spec), status, code)
    assert gateway.dispatcher.sent == []
    assert gateway.client.get("/v1/jobs").json()["jobs"] == []


BROKEN_JSON = {
    "temperature NaN": (json.dumps(with_objective(temperature=float("nan"))), "invalid-temperature"),
    "temperature infinite": (json.dumps(with_objective(temperature=float("inf"))), "invalid-temperature"),
    "temperature 1e999": (
        json.dumps(with_objective(temperature=7)).replace("7", "1e999"), "invalid-temperature",
    ),
    "weight NaN": (json.dumps(with_objective(soft_weight=float("nan"))), "invalid-weights"),
    "weight infinite": (json.dumps(with_objective(hard_weight=float("inf"))), "invalid-weights"),
    "another NaN": (json.dumps(TEACHER | {"budget": {"learning_rate": float("nan")}}), "request-invalid"),
    "half an object": ('{"kind": "teacher", ', "invalid-json"),
    "no JSON": ("kind=teacher", "invalid-json"),
    "nothing": ("", "request-invalid"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_JSON)
def test_json_that_is_broken_or_not_finite_is_refused(gateway, teacher, case):
    text, code = BROKEN_JSON[case]
    refused(submit_text(gateway, text), 422, code)


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe{}", b"[" * 15_000, b'{"seeds": [' + b"9" * 10_000 + b"]}", b'{"kind": "\\ud800"}', b"null"],
)
def test_hostile_json_is_refused_and_never_an_error_of_ours(gateway, text):
    answer = submit_text(gateway, text)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["code"]


def test_a_job_that_is_too_large_to_be_one_is_refused(gateway):
    refused(submit_text(gateway, " " * 20_001), 413, "body-too-large")


# --- look, list, cancel ---


def test_an_unknown_job_is_404_everywhere(gateway):
    refused(gateway.client.get("/v1/jobs/j-nothing"), 404, "job-not-found")
    refused(gateway.client.get("/v1/jobs/j-nothing/report"), 404, "job-not-found")
    refused(gateway.client.get("/v1/jobs/j-nothing/events"), 404, "job-not-found")
    refused(gateway.client.post("/v1/jobs/j-nothing/cancel"), 404, "job-not-found")


def test_jobs_are_listed_newest_first_page_by_page(gateway):
    made = [submit(gateway, TEACHER | {"seeds": [i]}).json()["id"] for i in range(5)]
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = gateway.client.get(
            "/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (seen, pages) == (made[::-1], 3)


def test_jobs_are_filtered_by_state_and_kind(gateway, teacher):
    first = submit(gateway, TEACHER).json()["id"]
    second = submit(gateway, DISTILLATION).json()["id"]
    gateway.client.post(f"/v1/jobs/{first}/cancel")

    def ids(**filters):
        return [job["id"] for job in gateway.client.get("/v1/jobs", params=filters).json()["jobs"]]

    assert ids(state="cancelled") == ids(kind="teacher") == [first]
    assert ids(state="queued") == ids(kind="distillation") == [second]


def test_a_job_that_waits_shows_its_children_and_they_are_listed(gateway):
    parent = submit(gateway, TEACHER).json()["id"]
    submit(gateway, TEACHER)
    grant = gateway.jobs.acquire(parent, 30.0, 3)
    children = [(f"{parent}-{number:03}", TeacherSpec(**TEACHER)) for number in range(2)]
    gateway.jobs.wait(parent, grant.epoch, children)
    job = gateway.client.get(f"/v1/jobs/{parent}").json()
    assert (job["state"], job["children"]) == ("waiting", [child for child, _ in children])
    assert job["progress"] | {"eta_s": None} == {
        "stage": "train", "done": 0, "total": 2, "unit": "jobs", "eta_s": None, "metrics": {},
    }  # fmt: skip
    listed = gateway.client.get("/v1/jobs", params={"parent": parent, "kind": "teacher"}).json()["jobs"]
    assert [(child["id"], child["parent"]) for child in listed] == [
        (child, parent) for child, _ in children[::-1]
    ]
    assert gateway.client.get("/v1/jobs", params={"parent": parent, "kind": "sweep"}).json()["jobs"] == []
    assert gateway.client.get("/v1/jobs", params={"state": "waiting"}).json()["jobs"][0]["id"] == parent
    assert gateway.client.post(f"/v1/jobs/{parent}/cancel").json()["state"] == "cancelled"
    assert gateway.client.get(f"/v1/jobs/{parent}-001").json()["state"] == "cancelled"


@pytest.mark.parametrize("kind", get_args(JobKind))
def test_jobs_of_every_kind_can_be_listed(gateway, kind):
    assert gateway.client.get("/v1/jobs", params={"kind": kind}).json()["jobs"] == []


def test_a_kind_that_only_jobs_make_is_refused(gateway, teacher):
    spec = {
        "kind": "specialist", "name": "expert", "generalist": "digits-teacher", "dataset": "mnist-5k",
        "generalist_digest": "0" * 64, "classes": ["3", "8"],
    }  # fmt: skip
    assert "'specialists'" in str(refused(submit(gateway, spec), 422, "made-by-another-job")["remedy"])


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%D9%A3", "state=gone", "kind=x"]
)
def test_a_list_cannot_be_asked_for_wrongly(gateway, query):
    refused(gateway.client.get(f"/v1/jobs?{query}"), 422, "request-invalid")


def test_a_waiting_job_is_cancelled_at_once_and_again_without_harm(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    for _ in range(2):
        answer = gateway.client.post(f"/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


def finish(gateway, job_id):
    grant = gateway.jobs.acquire(job_id, 30.0, 3)
    gateway.jobs.succeed(job_id, grant.epoch, JobResult(teacher="digits-teacher"))


def test_a_queued_job_is_paused_at_once_and_resumed_with_a_message(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    for _ in range(2):
        answer = gateway.client.post(f"/v1/jobs/{job}/pause")
        assert (answer.status_code, answer.json()["state"]) == (200, "paused")
    assert [one["id"] for one in gateway.client.get("/v1/jobs?state=paused").json()["jobs"]] == [job]
    assert gateway.client.post(f"/v1/jobs/{job}/resume").json()["state"] == "queued"
    assert gateway.dispatcher.sent == [job, job]


def test_a_running_job_is_asked_to_pause(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    gateway.jobs.acquire(job, 60, 3)
    answer = gateway.client.post(f"/v1/jobs/{job}/pause").json()
    assert (answer["state"], answer["pause_requested"]) == ("running", True)


def test_a_job_that_is_not_paused_cannot_be_resumed_and_one_that_ended_not_paused(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    refused(gateway.client.post(f"/v1/jobs/{job}/resume"), 409, "job-not-paused")
    gateway.client.post(f"/v1/jobs/{job}/cancel")
    refused(gateway.client.post(f"/v1/jobs/{job}/pause"), 409, "job-already-final")
    for word in ("pause", "resume"):
        refused(gateway.client.post(f"/v1/jobs/j-nothing/{word}"), 404, "job-not-found")


def test_a_job_that_succeeded_cannot_be_cancelled(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    finish(gateway, job)
    refused(gateway.client.post(f"/v1/jobs/{job}/cancel"), 409, "job-already-final")


# --- report ---


@pytest.fixture
def reported(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    files = gateway.store.job(job)
    files.directory.mkdir(parents=True)
    files.report_json.write_text('{"kind": "teacher"}')
    files.report_md.write_text("# Report\n")
    return f"/v1/jobs/{job}/report"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json;q=0.9, text/markdown;q=0.1"]
)
def test_a_report_is_json_unless_told_otherwise(gateway, reported, accept):
    answer = gateway.client.get(reported, headers={"Accept": accept} if accept else {})
    assert answer.json() == {"kind": "teacher"}
    assert answer.headers["content-type"] == "application/json"


def test_a_report_is_markdown_where_asked_for(gateway, reported):
    answer = gateway.client.get(reported, headers={"Accept": "text/markdown, application/json;q=0.5"})
    assert answer.text == "# Report\n"
    assert answer.headers["content-type"].startswith("text/markdown")


def test_a_report_in_another_form_is_not_given(gateway, reported):
    refused(gateway.client.get(reported, headers={"Accept": "application/pdf"}), 406, "not-acceptable")


def test_a_job_without_a_report_says_so(gateway):
    job = submit(gateway, TEACHER).json()["id"]
    problem = refused(gateway.client.get(f"/v1/jobs/{job}/report"), 404, "report-not-ready")
    assert "queued" in problem["detail"]


# --- a job store that does not answer, an error of ours ---


def test_without_the_job_store_jobs_are_503_and_say_when_to_come_back(gateway, monkeypatch, caplog):
    def down(*_args, **_more):
        raise JobStoreUnavailable("Error 111 connecting to redis:6379. Connection refused.")

    monkeypatch.setattr(gateway.jobs, "submit", down)
    with caplog.at_level("WARNING", "shared.adapters.web.problems"):
        answer = submit(gateway, TEACHER)
    problem = refused(answer, 503, "job-store-unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    # Where Redis is stands in the log alone.
    assert problem["detail"] == "the job store does not answer"
    assert "redis:6379" not in answer.text
    (line,) = (record for record in caplog.records if record.message == "request refused")
    assert "Error 111 connecting to redis:6379" in line.detail


def test_a_job_whose_message_could_not_be_sent_is_accepted_all_the_same(gateway, monkeypatch):
    def down(_job_id):
        raise JobStoreUnavailable("connection refused")

    monkeypatch.setattr(gateway.dispatcher, "send", down)
    answer = submit(gateway, TEACHER)
    assert answer.status_code == 201
    assert gateway.jobs.get(answer.json()["id"]).spec == TeacherSpec.model_validate(TEACHER)


def test_an_error_that_nobody_foresaw_is_a_problem_too_and_tells_nothing_of_itself(gateway, monkeypatch):
    def broken(_job_id):
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(gateway.jobs, "get", broken)
    answer = gateway.client.get("/v1/jobs/j-1")
    refused(answer, 500, "internal-error")
    assert "swordfish" not in answer.text
    assert gateway.client.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/jobs/a/b/c"])
def test_an_unknown_route_is_a_problem(gateway, path):
    refused(gateway.client.get(path), 404, "not-found")
