"""`imago jobs report`: on the screen, or as files in a folder."""

import json
from pathlib import Path

import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from shared.contracts.reports import DistillationReport
from tests.support.fake_gateway import SPEC, FakeGateway


@pytest.fixture
def gateway() -> FakeGateway:
    gateway = FakeGateway()
    gateway.add_job(**SPEC.model_dump())
    return gateway


def imago(gateway: FakeGateway, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(
            ["jobs", "report", "j-0", *arguments, "--gateway", "http://gateway"], Outside(gateway.transport())
        )
    return int(left.value.code or 0)


def test_a_report_is_fetched_with_its_plots_into_a_folder(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "new" / "folder"
    assert imago(gateway, "--out", str(folder)) == 0
    assert {path.name for path in folder.iterdir()} == {
        "report.json",
        "report.md",
        "curves.png",
        "curves.svg",
    }
    assert (folder / "curves.svg").read_text() == "content of curves.svg"
    DistillationReport.model_validate_json((folder / "report.json").read_bytes())
    assert capsys.readouterr().out.splitlines()[0] == str(folder / "report.md")


def test_json_is_printed_besides_where_both_are_asked_for(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert imago(gateway, "--out", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "distillation"
    assert (tmp_path / "curves.png").exists()


def test_a_folder_that_cannot_be_made_is_one_line_and_no_trace(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert imago(gateway, "--out", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err.startswith("error: folder-not-writable")
