"""Every order in the documentation can be sent as it stands, and every option stands in the documentation."""

import json
import re
import types
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from experiments.registry import EXPERIMENTS
from shared.contracts import architectures, evaluation, reports, specs, teacher_sources, training
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetView, SplitCounts
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.kept import KeptCollection
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.specs import (
    MADE_BY,
    JobKind,
    JobSpec,
    RedistillationSpec,
    SpecialistsSpec,
    TeacherImportSpec,
    TeacherSpec,
)
from shared.contracts.students import StudentCard
from shared.contracts.teachers import TeacherDescription
from shared.errors import DatasetNotFound, DistillationError, TeacherNotFound
from shared.jobs.checks import check_submitted
from tests.support.jobs import dataset_manifest, dataset_view, teacher_description
from tests.support.student_bundles import card

ROOT = Path(__file__).resolve().parents[2]
METHOD = "docs/method.md"
PAGES = ("README.md", METHOD)
"""Their orders are sent in the order of the page: each finds the teachers that the ones above it make."""
KINDS = set(get_args(JobKind)) - set(MADE_BY)
SPEC: TypeAdapter[Any] = TypeAdapter(JobSpec)

SECTIONS: dict[type[BaseModel], str] = {
    specs.TeacherSpec: "teacher",
    specs.DistillationSpec: "distillation",
    specs.SelfDistillationSpec: "self_distillation",
    specs.MutualSpec: "mutual",
    specs.CodistillationSpec: "codistillation",
    specs.TeacherImportSpec: "teacher_import",
    teacher_sources.SentFiles: "teacher_import",
    teacher_sources.SafetensorsSource: "teacher_import",
    teacher_sources.TransformersSource: "teacher_import",
    teacher_sources.TimmSource: "teacher_import",
    teacher_sources.OnnxSource: "teacher_import",
    teacher_sources.OipSource: "teacher_import",
    teacher_sources.EnsembleSource: "teacher_import",
    ImageInput: "teacher_import",
    specs.TeacherCheckSpec: "teacher_check",
    specs.TransferSetJobSpec: "transfer_set",
    specs.RedistillationSpec: "redistillation",
    specs.SweepSpec: "Finding temperature, weights and width",
    specs.FloatRange: "Finding temperature, weights and width",
    specs.SweepConstraint: "Finding temperature, weights and width",
    specs.SpecialistsSpec: "Specialists, end to end",
    specs.SpecialistPlan: "Specialists, end to end",
    specs.SpecialistTraining: "Specialists, end to end",
    training.StudentSpec: "distillation",
    training.Objective: "Objectives",
    training.Decoupled: "Decoupled distillation",
    training.Hint: "Hints",
    training.AttentionTransfer: "Attention transfer",
    training.TransferSetSpec: "The transfer set",
    training.Choice: "Images worth asking about",
    training.Asking: "How the teacher is asked",
    training.BiasRepair: "Class biases",
    training.Regularisation: "Regularisation",
    training.Budget: "Budget",
    architectures.Mlp: "Networks",
    architectures.Cnn: "Networks",
    architectures.ResNet: "Networks",
    architectures.Transformers: "Networks",
    architectures.Timm: "Networks",
}
"""Where each option of a job is explained."""

COMMON = {
    "kind",
    "name",
    "dataset",
    "seeds",
    "budget",
    "objective",
    "transfer_set",
    "regularisation",
    "network",
}
"""Fields of several kinds: explained once for all of them."""

IDENTITIES = {"kind", "spec", "job_id", "created_at", "dataset_digest", "teacher_digest"}
IDENTITIES |= {"transfer_set_digest", "generalist_digest"}
"""What a report says about where it comes from; the rest are its figures."""


# --- the pages ---------------------------------------------------------------------------------------------


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def section(page: str, heading: str) -> str:
    """Return the text below a heading, down to the next heading of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", text_of(page), re.MULTILINE)
    assert found, f"{page} has no section {heading!r}"
    end = re.search(rf"^#{{1,{len(found[1])}}} ", text_of(page)[found.end() :], re.MULTILINE)
    return text_of(page)[found.end() :][: end.start() if end else None]


def orders(page: str) -> list[dict[str, Any]]:
    """Return the page's orders: whole JSON blocks with a kind, and bodies that curl sends to the jobs."""
    found = [
        *re.finditer(r"^```json\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL),
        *re.finditer(
            r"/v1/jobs\b[^'\n]*(?:'[A-Z][\w-]+: [^']*'[^']*)*-d '(\{.*?\})'", text_of(page), re.DOTALL
        ),
    ]
    bodies = [json.loads(one[1]) for one in sorted(found, key=lambda one: one.start())]
    return [body for body in bodies if "kind" in body]


def named(field: str, text: str) -> bool:
    """Return whether a field is named as code, alone or at the end of a path or beginning of a value."""
    return re.search(rf"[`\".]{re.escape(field)}[`\"]", text) is not None


# --- an installation where nothing was done yet ------------------------------------------------------------


@cache
def builtin_datasets() -> dict[str, DatasetView]:
    """Return the built-in datasets as docs/datasets.md describes them; classes are called 0, 1, …"""
    line = r"^\| `([\w-]+)` \|.*?\| (\d+) \| ([\d,]+) / ([\d,]+) / ([\d,]+)[^|]*\| (\d+) x (\d+) x (\d+) \|"
    found = {}
    for row in re.findall(line, text_of("docs/datasets.md"), re.MULTILINE):
        classes, train, validation, test, height, width, channels = (int(n.replace(",", "")) for n in row[1:])
        manifest = dataset_manifest(
            classes=tuple(map(str, range(classes))),
            input=ImageInput(height=height, width=width, channels=channels),
            counts=SplitCounts(train=train, validation=validation, test=test),
        )
        found[row[0]] = dataset_view(manifest, name=row[0], builtin=True)
    return found


class Installation:
    """A `Catalogue` of the built-in datasets and of the teachers that the orders so far would have made."""

    def __init__(self) -> None:
        self._teachers: dict[str, TeacherDescription] = {}

    def dataset(self, name: str) -> DatasetView:
        if name not in builtin_datasets():
            raise DatasetNotFound(name)
        return builtin_datasets()[name]

    def teacher(self, name: str) -> TeacherDescription:
        if name not in self._teachers:
            raise TeacherNotFound(name)
        return self._teachers[name]

    def student(self, version: str | None) -> StudentCard:
        facts = {"version": version or "live", "teacher": next(iter(self._teachers)), "dataset": "mnist-5k"}
        return card("any", b"").model_copy(update=facts)

    def kept(self, collection: str) -> KeptCollection:
        now = datetime.now(UTC)
        return KeptCollection(
            name=collection, images=1, size_bytes=1, since=now, until=now, escalated=1, disagreed=0,
            students=(),
        )  # fmt: skip

    def need_teacher_name(self, name: str) -> None:
        return None

    def send(self, spec: Any) -> None:
        check_submitted(spec, self)
        if isinstance(spec, RedistillationSpec):
            return  # what it makes is no teacher
        manifest = self.dataset(spec.dataset).manifest
        assert manifest is not None
        if isinstance(spec, TeacherSpec | TeacherImportSpec):
            nets: dict[str, Any] = {}
            if isinstance(spec, TeacherSpec):
                nets = {
                    "architecture": spec.architecture,
                    "members": len(spec.seeds),
                    "merge": spec.merge,
                }
            self._teachers[spec.name] = teacher_description(
                **nets,
                name=spec.name,
                classes=manifest.classes,
                preprocessing=Preprocessing(
                    input=manifest.input,
                    mean=(0.5,) * manifest.input.channels,
                    std=(0.2,) * manifest.input.channels,
                ),
            )
        elif isinstance(spec, SpecialistsSpec):
            parts = (SpecialistPart(classes=manifest.classes[:2]),)
            generalist = self.teacher(spec.generalist)
            combination = Combination(top_n=spec.top_n, specialists=parts)
            model = generalist.nets.model_copy(update={"specialists": combination})
            self._teachers[spec.name] = generalist.model_copy(update={"name": spec.name, "model": model})


# --- orders ------------------------------------------------------------------------------------------------


def test_the_page_of_datasets_tells_the_size_of_every_builtin_one():
    assert builtin_datasets().keys() == BUILTIN_DATASETS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_order_of_a_page_can_be_sent_after_those_above_it(page: str):
    installation = Installation()
    refused = []
    for order in orders(page):
        try:
            installation.send(SPEC.validate_python(order))
        except (ValidationError, DistillationError) as error:
            refused.append((order["name"], str(error)))
    shown = [("digits", "there is no teacher 'nobody'")] if page == "README.md" else []
    assert refused == shown
    assert all(f'"detail":"{words}"' in text_of(page) for _, words in shown)


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")))
def test_every_order_of_the_documentation_is_one(page: str):
    for order in orders(page):
        SPEC.validate_python(order)


def test_no_order_of_a_page_goes_unread():
    assert len(orders("README.md")) == 4
    assert len(orders(METHOD)) == len(re.findall(r'^\{"kind"', text_of(METHOD), re.MULTILINE))


def test_students_of_a_page_have_names_of_their_own():
    # A check makes nothing: its name is that of the teacher that it tries.
    names = [order["name"] for order in orders(METHOD) if order["kind"] != "teacher_check"]
    assert len(set(names)) == len(names)


def test_every_kind_of_job_has_an_example():
    assert KINDS - {order["kind"] for order in orders(METHOD)} == set()


@pytest.mark.parametrize("contract", [training.Objective, training.TransferSetSpec, training.BiasRepair])
def test_every_option_of_what_a_student_learns_from_is_set_in_an_example(contract: type[BaseModel]):
    place = {"Objective": "objective", "TransferSetSpec": "transfer_set", "BiasRepair": "bias_repair"}
    shown = {field for order in orders(METHOD) for field in order.get(place[contract.__name__], {})}
    assert contract.model_fields.keys() - shown == set()


def test_every_architecture_is_named():
    text = section(METHOD, "Networks")
    assert {name for name in architectures.ARCHITECTURES if not named(name, text)} == set()


# --- options, figures, refusals ----------------------------------------------------------------------------


def contracts_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the contracts that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        for part in get_args(annotation):
            yield from contracts_in(part)


def asked_for() -> set[type[BaseModel]]:
    """Return every contract that a submitted job may hold."""
    known: set[type[BaseModel]] = set()
    left = [one for one in contracts_in(JobSpec) if one.model_fields["kind"].default in KINDS]
    while left:
        contract = left.pop()
        if contract not in known:
            known.add(contract)
            left += [
                one for field in contract.model_fields.values() for one in contracts_in(field.annotation)
            ]
    return known


def test_every_contract_of_an_order_has_a_section():
    assert asked_for() - SECTIONS.keys() == set()


@pytest.mark.parametrize("contract", SECTIONS, ids=lambda contract: contract.__name__)
def test_every_option_is_explained_in_the_section_of_its_contract(contract: type[BaseModel]):
    text = section(METHOD, SECTIONS[contract])
    missing = {field for field in contract.model_fields if not named(field, text)}
    assert missing - COMMON == set()


def test_options_of_several_kinds_are_explained_somewhere():
    prose = re.sub(r"```.*?```", "", text_of(METHOD), flags=re.DOTALL)
    assert {field for field in COMMON if not re.search(rf"`{field}[`.]", prose)} == set()


def test_every_figure_of_a_report_has_a_line():
    figures = {
        field
        for contract in (
            *contracts_in(reports.Report),
            evaluation.Evaluation,
            evaluation.Comparison,
            reports.Cost,
        )
        for field in contract.model_fields
    }
    figures -= IDENTITIES | {"torch", "imago"}  # versions
    text = section(METHOD, "Reading a report")
    assert {figure for figure in figures if f"`{figure}`" not in text} == set()


def test_every_experiment_that_the_method_names_can_be_run():
    told = re.findall(r"Experiment[^:.]*:((?:\s+`[\w-]+`,?)+)\.", text_of(METHOD))
    names = {name for names in told for name in re.findall(r"`([\w-]+)`", names)}
    assert len(told) == text_of(METHOD).count("Experiment:") + text_of(METHOD).count("Experiment,")
    assert names - EXPERIMENTS.keys() == set()


def test_every_verdict_is_explained():
    text = section(METHOD, "Reading a report")
    assert {verdict.value for verdict in evaluation.Verdict if f"| {verdict.value} |" not in text} == set()


def test_every_code_in_the_table_of_refusals_is_one():
    def codes(error: type[DistillationError]) -> set[str]:
        return {error.code}.union(*map(codes, error.__subclasses__()))

    first_columns = re.findall(r"^\| (`[^|]*) \|", section(METHOD, "Refusals worth knowing"), re.MULTILINE)
    told = {code for column in first_columns for code in re.findall(r"`([\w-]+)`", column)}
    assert len(told) > 20
    assert told - codes(DistillationError) == set()


@pytest.mark.parametrize("page", [*PAGES, "docs/architecture.md"])
def test_links_lead_somewhere(page: str):
    for target in re.findall(r"\]\(([^)#:]*)(?:#[\w-]*)?\)", text_of(page)):
        assert not target or (ROOT / page).parent.joinpath(target).exists(), target


def test_links_within_the_page_of_the_method_lead_to_a_heading():
    headings = re.findall(r"^#+ (.*)$", text_of(METHOD), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text_of(METHOD))) - anchors == set()
