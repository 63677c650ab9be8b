"""Examples in the OpenAPI document; made of the contracts, so that they cannot be wrong in form."""

from datetime import UTC, datetime
from typing import Any

from shared.contracts.architectures import Mlp
from shared.contracts.base import Contract
from shared.contracts.cascade import CascadeCurve, CascadePoint
from shared.contracts.comparisons import (
    Bounds,
    CalibrationDrift,
    Disagreement,
    LatencyBounds,
    StudentComparison,
    TrafficLatency,
)
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetList, DatasetManifest, DatasetView, SplitCounts
from shared.contracts.evaluation import Comparison, Evaluation, SeedComparison, Verdict
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.jobs import JobPage, JobState, JobView, Progress, Stage
from shared.contracts.kept import KeptByStudent, KeptCollection, KeptDeleted, KeptList
from shared.contracts.keys import KeyLimits, KeyList, KeyMade, KeyView, Scope
from shared.contracts.predictions import ClassProbability, Prediction, PredictionAnswer, Timing
from shared.contracts.specs import (
    DistillationSpec,
    SpecialistPlan,
    SpecialistsSpec,
    TeacherCheckSpec,
    TeacherImportSpec,
    TeacherSpec,
    TransferSetJobSpec,
)
from shared.contracts.students import (
    BundleFile,
    Latency,
    LiveStudent,
    StudentCard,
    StudentList,
    StudentView,
)
from shared.contracts.teacher_sources import EnsembleSource, OipSource, OnnxSource, SentFiles
from shared.contracts.teachers import Nets, TeacherDescription, TeacherDescriptions
from shared.contracts.traffic import Canary, Cascade, TrafficPolicy, TrafficView
from shared.contracts.training import Objective, TransferSetSpec
from shared.contracts.transfer_sets import (
    ClassCoverage,
    TargetEntropy,
    TransferSetCard,
    TransferSetCost,
    TransferSetPage,
    TransferSetSummary,
    TransferSetView,
)
from shared.transfer_set.format import TRANSFER_SET_FORMAT

_AT = datetime(2026, 11, 21, 11, 20, tzinfo=UTC)
_DIGEST = "5f1c8f0a9f5e4d30" * 4
_DIGITS = tuple("0123456789")
_INPUT = ImageInput(height=28, width=28, channels=1)
_PREPROCESSING = Preprocessing(input=_INPUT, mean=(0.1307,), std=(0.3081,))
_VERSION = "digits-3f2a9c1e"

TEACHER_SPEC = TeacherSpec(name="digits-teacher", dataset="mnist-5k")
DISTILLATION_SPEC = DistillationSpec(name="digits", teacher="digits-teacher", dataset="mnist-5k")
SPECIALISTS_SPEC = SpecialistsSpec(
    name="digits-experts",
    generalist="digits-teacher",
    dataset="mnist-5k",
    plan=SpecialistPlan(sets=2, size=3),
    seeds=(0, 1),
)

OIP_ORDER = TeacherImportSpec(
    name="digits-triton",
    source=OipSource(url="http://triton:8000", model="digits"),
    dataset="mnist-5k",
    claimed_accuracy=0.97,
)
ENSEMBLE_ORDER = TeacherImportSpec(
    name="digits-both", source=EnsembleSource(members=("digits-teacher", "digits-triton")), dataset="mnist-5k"
)

JOB = JobView(
    id="j-k3v7qzt2m4xa",
    state=JobState.RUNNING,
    spec=DISTILLATION_SPEC,
    created_at=_AT,
    started_at=_AT,
    attempts=1,
    epoch=1,
    progress=Progress(
        stage=Stage.TRAIN, done=7, total=20, unit="epochs", eta_s=31.5, metrics={"validation_accuracy": 0.962}
    ),
)
PARENT_JOB = JobView(
    id="j-w2c6rbn5yh3d",
    state=JobState.WAITING,
    spec=SPECIALISTS_SPEC,
    created_at=_AT,
    started_at=_AT,
    children=tuple(f"j-w2c6rbn5yh3d-{number:03}" for number in range(4)),
    epoch=1,
    progress=Progress(stage=Stage.TRAIN, done=1, total=4, unit="jobs", eta_s=42.0),
)
IMPORT_JOB = JobView(
    id="j-h5x2nqa7wc3e",
    state=JobState.QUEUED,
    spec=TeacherImportSpec(
        name="digits-onnx",
        source=OnnxSource(files=SentFiles(upload="upload-7c1e9a40d2b85f6637e0c94d1ab8f25c")),
        dataset="mnist-5k",
        claimed_accuracy=0.97,
    ),
    created_at=_AT,
)
CHECK_JOB = JobView(
    id="j-p9d4tkz6ym2s",
    state=JobState.QUEUED,
    spec=TeacherCheckSpec(name="digits-onnx", dataset="mnist-5k"),
    created_at=_AT,
)
TRANSFER_SET_SPEC = TransferSetJobSpec(
    name="digits-views",
    teacher="digits-teacher",
    dataset="mnist-5k",
    transfer_set=TransferSetSpec(views=4, jitter_px=2),
)
TRANSFER_SET_JOB = JobView(
    id="j-b7m3wqk5xz2n",
    state=JobState.QUEUED,
    spec=TRANSFER_SET_SPEC,
    created_at=_AT,
)
JOBS = JobPage(jobs=(JOB, PARENT_JOB))

TEACHER = TeacherDescription(
    name="digits-teacher",
    digest=_DIGEST,
    model=Nets(architecture=Mlp(hidden_units=(1200, 1200))),
    classes=_DIGITS,
    preprocessing=_PREPROCESSING,
    test_accuracy=0.968,
    job_id="j-aq5s2h7wplmc",
    created_at=_AT,
)
TEACHERS = TeacherDescriptions(teachers=(TEACHER,))

DATASET = DatasetView(
    name="mnist-5k",
    builtin=True,
    available=True,
    description=BUILTIN_DATASETS["mnist-5k"],
    manifest=DatasetManifest(
        digest=_DIGEST,
        classes=_DIGITS,
        input=_INPUT,
        counts=SplitCounts(train=3500, validation=500, test=1000),
        labelled=True,
        pixel_mean=(0.1307,),
        pixel_std=(0.3081,),
        source=BUILTIN_DATASETS["mnist-5k"],
        created_at=_AT,
    ),
)
DATASETS = DatasetList(datasets=(DATASET,))

CARD = StudentCard(
    version=_VERSION,
    name="digits",
    job_id=JOB.id,
    created_at=_AT,
    classes=_DIGITS,
    preprocessing=_PREPROCESSING,
    architecture=Mlp(hidden_units=(800, 800)),
    parameters=1_276_810,
    teacher="digits-teacher",
    teacher_digest=_DIGEST,
    teacher_parameters=2_395_210,
    dataset="mnist-5k",
    dataset_digest=_DIGEST,
    transfer_set_digest=_DIGEST,
    objective=Objective(),
    seed=1,
    evaluation=Evaluation(
        examples=1000,
        errors=38,
        accuracy=0.962,
        accuracy_interval=(0.9483, 0.9722),
        nll=0.121,
        brier=0.058,
        ece=0.011,
        reliability=(),
        errors_by_class={"4": 6, "9": 9},
        confusion=(),
    ),
    comparison=Comparison(
        verdict=Verdict.BEATS,
        gain=0.011,
        interval=(0.004, 0.018),
        p_value=0.006,
        degrees_of_freedom=8.1,
        margin=0.001,
        method="crossed seeds and examples",
        seeds=(
            SeedComparison(seed=1, taught_accuracy=0.962, untaught_accuracy=0.951, taught_agreement=0.978),
        ),
    ),
    latency=(Latency(batch=1, p50_ms=0.14, p99_ms=0.21, calls=1000, threads=1),),
    onnx_largest_difference=2.4e-6,
    cascade=CascadeCurve(
        validation_images=500,
        test_images=1000,
        student_accuracy=0.962,
        teacher_accuracy=0.971,
        points=(
            CascadePoint(chosen_share=0.0, threshold=0.0, share=0.0, accuracy=0.962),
            CascadePoint(chosen_share=0.05, threshold=0.8125, share=0.048, accuracy=0.972),
            CascadePoint(chosen_share=1.0, threshold=1.0, share=0.993, accuracy=0.971),
        ),
    ),
    files={"model.onnx": BundleFile(sha256=_DIGEST, size_bytes=5_110_123)},
)
STUDENTS = StudentList(
    live=_VERSION,
    students=(
        StudentView(
            version=_VERSION,
            name="digits",
            live=True,
            created_at=_AT,
            job_id=JOB.id,
            accuracy=CARD.evaluation.accuracy,
            verdict=CARD.comparison.verdict,
            parameters=CARD.parameters,
        ),
    ),
)
COMPARISON = StudentComparison(
    version=_VERSION,
    role="canary",
    live="digits-9b40c7aa",
    since=_AT,
    answered_images=2104,
    shadowed_images=0,
    against_live=Disagreement(
        reference="digits-9b40c7aa", compared=2104, disagreed=31, share=0.014734, interval=(0.0104, 0.0208)
    ),
    against_teacher=None,
    latency=TrafficLatency(
        version=_VERSION,
        call=LatencyBounds(
            p50=Bounds(above_ms=0.1, at_most_ms=0.15), p99=Bounds(above_ms=0.3, at_most_ms=0.5), count=1187
        ),
        images_per_call=1.77,
        request=LatencyBounds(
            p50=Bounds(above_ms=0.2, at_most_ms=0.3), p99=Bounds(above_ms=1, at_most_ms=1.5), count=2104
        ),
    ),
    live_latency=None,
    drift=CalibrationDrift(
        images=2104,
        mean_confidence=0.951,
        test_mean_confidence=0.972,
        confidence_drift=-0.021,
        class_distance=0.034,
        class_distance_by_chance=0.029,
    ),
)
LIVE = LiveStudent(version=_VERSION, previous=("digits-9b40c7aa",), promotion=2, changed_at=_AT)

TRAFFIC = TrafficView(
    policy=TrafficPolicy(
        canary=Canary(version="digits-c41d77e0", share=0.1), cascade=Cascade(threshold=0.7, deadline_ms=100)
    ),
    revision=3,
    changed_at=_AT,
)

KEPT_COLLECTION = KeptCollection(
    name="unsure-digits",
    images=1_204,
    size_bytes=1_187_840,
    since=_AT,
    until=_AT,
    escalated=1_120,
    disagreed=84,
    students=(KeptByStudent(student=_VERSION, dataset="mnist-5k", images=1_204),),
)
KEPT = KeptList(collections=(KEPT_COLLECTION,))
KEPT_DELETED = KeptDeleted(
    name="unsure-digits",
    images=1_204,
    datasets=("digits-and-unsure",),
    datasets_removed=False,
    still_kept=False,
)

KEY = KeyView(
    id="7c2m9qx04tbz",
    name="shop-front",
    owner="anna",
    scopes=(Scope.PREDICT, Scope.JOBS),
    created_at=_AT,
    limits=KeyLimits(per_second=50, per_day=1_000_000),
)
KEY_MADE = KeyMade(**dict(KEY), key=f"imago_{KEY.id}_{'x' * 43}")
KEY_REVOKED = KEY.model_copy(update={"revoked_at": _AT})
KEYS = KeyList(keys=(KEY,))

_TRANSFER_SET_VIEW = TransferSetView(
    digest="3f2a9c1e07d4b856" * 4,
    created_at=_AT,
    format=TRANSFER_SET_FORMAT,
    teacher="digits-teacher",
    teacher_digest=_DIGEST,
    dataset="mnist-5k",
    dataset_digest=_DIGEST,
    spec=TRANSFER_SET_SPEC.transfer_set,
    tempers=True,
    temperature=1.0,
    images=3500,
    views=4,
    rows=14_000,
    shards=2,
    size_bytes=1_022_912,
)
TRANSFER_SETS = TransferSetPage(transfer_sets=(_TRANSFER_SET_VIEW,))
TRANSFER_SET = TransferSetCard(
    **_TRANSFER_SET_VIEW.model_dump(),
    files=(
        "entropy.png",
        "entropy.svg",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "summary.json",
    ),
    summary=TransferSetSummary(
        digest=_TRANSFER_SET_VIEW.digest,
        rows=14_000,
        rows_labelled=14_000,
        classes=tuple(ClassCoverage(name=name, labelled=1400, predicted=1400) for name in _DIGITS),
        entropy=(
            TargetEntropy(
                temperature=4.0,
                mean_nats=0.412,
                smallest_nats=0.021,
                p05_nats=0.064,
                p25_nats=0.158,
                median_nats=0.301,
                p75_nats=0.562,
                p95_nats=1.173,
                largest_nats=1.982,
            ),
        ),
        cost=TransferSetCost(
            job_id=TRANSFER_SET_JOB.id, rows_asked=10_500, rows_from_cache=3500, rows_rescored=64, seconds=1.4
        ),
        created_at=_AT,
    ),
)

PREDICTION = PredictionAnswer(
    student=_VERSION,
    predictions=(
        Prediction(
            predicted="7",
            classes=(
                ClassProbability(name="7", probability=0.9971),
                ClassProbability(name="9", probability=0.0019),
            ),
        ),
    ),
    timing=Timing(decode_ms=0.08, model_ms=0.14, total_ms=0.31),
)


def answers(example: Contract) -> dict[str, Any]:
    """Return the part of a route's `responses` that shows this example."""
    return {"content": {"application/json": {"example": example.model_dump(mode="json")}}}


def located(example: Contract) -> dict[str, Any]:
    """Return the same for an answer that says in `Location` where the thing is that it made."""
    header = {"description": "Where to find it", "schema": {"type": "string"}}
    return {"headers": {"Location": header}, **answers(example)}
