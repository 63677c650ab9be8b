"""The files of `docs/experiments`: a page an experiment from its JSON, and the index of all of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from experiments.experiment import Experiment
from experiments.result import ENOUGH_SEEDS, ExperimentResult, Figure, Table

INDEX = "README.md"
NOTES = "notes"
"""Folder of what a person writes about an experiment, `NAME.md`: it goes into the page, nothing writes it."""

_VERDICTS = {True: "reached", False: "not reached", None: "–"}
_NOT_NOTED = "not noted"
_FOUND = {True: "yes", False: "no, run for this page", None: _NOT_NOTED}


def write(directory: Path, result: ExperimentResult, png: bytes) -> tuple[Path, Path, Path]:
    """Write NAME.json, NAME.md and NAME.png; return where they lie."""
    directory.mkdir(parents=True, exist_ok=True)
    as_json, page, picture = (directory / f"{result.name}.{ending}" for ending in ("json", "md", "png"))
    as_json.write_text(result.model_dump_json(indent=2) + "\n")
    page.write_text(markdown(result, notes_of(directory, result.name)))
    picture.write_bytes(png)
    return as_json, page, picture


def results_in(directory: Path) -> dict[str, ExperimentResult]:
    """Return the results that lie in a folder, by name of experiment."""
    return {
        path.stem: ExperimentResult.model_validate_json(path.read_bytes())
        for path in sorted(directory.glob("*.json"))
    }


def notes_of(directory: Path, name: str) -> str:
    """Return what a person wrote about an experiment, or nothing."""
    path = directory / NOTES / f"{name}.md"
    return path.read_text().strip() if path.is_file() else ""


def index(experiments: Sequence[Experiment], results: Mapping[str, ExperimentResult]) -> str:
    """Return the index page: the published figures and ours side by side."""
    rows = []
    for experiment in experiments:
        result = results.get(experiment.name)
        linked = f"[`{experiment.name}`]({experiment.name}.md)" if result else f"`{experiment.name}`"
        published = "; ".join(f"{one.label}: {one.figure}" for one in experiment.published) or "none"
        ours = f"{result.finding.headline} ({_form(result)})" if result else "not run yet"
        verdict = _VERDICTS[result.finding.reached] if result else ""
        rows.append((linked, experiment.source, published, experiment.to_reach, ours, verdict))
    table = _table(("name", "source", "published figure", "to reach", "our figure", "verdict"), rows)
    return f"""# Experiments

Every experiment of the sources is a named spec under `experiments/`. `make experiments` lists them; one is
run through the public API, on a running stack or on one of its own, from the data directory:

    IMAGO_DATA_DIR=/data imago experiments run mnist            # the full form: for a GPU
    IMAGO_DATA_DIR=/data imago experiments run mnist --reduced  # finishes on two CPU cores
    imago experiments run mnist --url http://127.0.0.1:8080     # on this stack

A job that succeeded with the same spec is found again, so an interrupted run goes on where it was. Each run
writes `NAME.json`, and from it `NAME.md`, `NAME.png` and this page; `{NOTES}/NAME.md` is a person's and goes
into the page. Figures are means over seeds ± the standard deviation over seeds, on the test split; where
there are fewer than {ENOUGH_SEEDS} seeds it is said. A page names the commit at which it was written, and
says of each job when it ended and whether it was found again.
No job chooses anything by test labels. The recipes were settled on earlier runs whose test errors were seen,
and where an experiment has several forms the best of them counts for "reached"; the page gives each.

{table}
"""


def markdown(result: ExperimentResult, notes: str = "") -> str:
    """Return an experiment's page, ending in a newline."""
    finding, machine = result.finding, result.machine
    reached = "" if finding.reached is None else f"**{_VERDICTS[finding.reached].capitalize()}.** "
    devices = "; ".join(machine.devices) or "in this process"
    single = any(len(one.values) == 1 for one in finding.figures)
    torch = f", torch {machine.torch}" if machine.torch else ""
    sections = [
        f"# {result.title}",
        f"`{result.name}`, {result.form} form. Source: {result.source}.",
        f"**To reach**: {result.to_reach}. {reached}{finding.verdict}",
        f"![{result.title}]({result.name}.png)",
        "## Published",
        _table(("", "figure"), [(one.label, one.figure) for one in result.published])
        if result.published
        else "Nothing was published.",
        "## Ours",
        _table(
            ("", "mean ± spread", "each", "published"),
            [
                (one.label, one.words, _each(one), "" if one.published is None else f"{one.published:g}")
                for one in finding.figures
            ],
        ),
        *(["A figure without ± is one value, of one net or one ensemble."] if single else []),
        *(part for table in finding.tables for part in (f"### {table.title}", _own(table))),
        "## How it was run",
        "\n".join(
            (
                f"- Command: `{result.command}`",
                f"- Form: {result.form}" + (f". Left out: {result.left_out}" if result.left_out else ""),
                f"- Seeds of students: {_seeds(result)}",
                f"- Page written at commit `{result.commit}`, {_time(result.finished_at)} UTC",
                f"- Jobs: {_found(result)}",
                f"- Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB{torch}",
                f"- Trained on: {devices}",
                f"- Wall time of all steps: {duration(result.wall_s)}; rows asked of a teacher: "
                f"{sum(step.teacher_rows for step in result.steps):,}",
            )
        ),
        _table(
            ("step", "job", "ended (UTC)", "found again", "time", "rows asked of a teacher"),
            [
                (
                    step.step,
                    f"`{step.job_id}` ({step.kind})" if step.job_id else step.kind,
                    _time(step.ended_at) if step.ended_at else _NOT_NOTED,
                    _FOUND[step.found],
                    duration(step.seconds),
                    f"{step.teacher_rows:,}",
                )
                for step in result.steps
            ],
        ),
    ]
    if notes:
        sections += ["## Notes", notes]
    return "\n\n".join(sections) + "\n"


def duration(seconds: float) -> str:
    """Return a time in words: 12 s, 3 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _form(result: ExperimentResult) -> str:
    return f"{result.form} form" + (f", {len(result.seeds)} seeds only" if result.few_seeds else "")


def _seeds(result: ExperimentResult) -> str:
    told = ", ".join(map(str, result.seeds)) or "no student is trained"
    if not result.few_seeds:
        return told
    return f"{told}. **Fewer than {ENOUGH_SEEDS}**: spreads and intervals rest on little"


def _found(result: ExperimentResult) -> str:
    jobs = [step for step in result.steps if step.job_id is not None]
    if not jobs:
        return "none, it was computed in the process that wrote the page"
    again = sum(step.found is True for step in jobs)
    unknown = sum(step.found is None for step in jobs)
    told = f"{again} of {len(jobs)} found again" + (f", of {unknown} it was not noted" if unknown else "")
    return (
        f"{told}. What is found again ran earlier, perhaps at an earlier commit" if again or unknown else told
    )


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _each(figure: Figure) -> str:
    digits = 0 if figure.unit == "errors" else 2
    return ", ".join(f"{value:.{digits}f}" for value in figure.values)


def _own(table: Table) -> str:
    return _table(table.columns, table.rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
