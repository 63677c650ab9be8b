"""What asking a teacher over HTTP costs beside running it in one's own process.

Prints rows per second of the same model through our client and the real service, a process of its own, and in
this process (`softened_logits` of the whole batch), at batches of 1 to 1,024; both on the same number of
threads. Then how long an interactive request of one row takes alone and while another process asks for bulk.
Each measurement over HTTP stands next to one in process, so that a busy machine slows both; ratios are
medians over rounds.

    python -m benchmarks.teacher [--models mnist,resnet56,resnet50] [--rounds 5] [--threads 1] [--device cpu]
                                 [--batches 1,16,256,1024] [--longest-s 30] [--company 0,2,5] [--json FILE]
"""

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.teacher_cases import Case, cases, publish, service
from services.teacher.models import Teachers
from shared.adapters.teacher_client import TeacherClient
from shared.adapters.teacher_wire import body_of
from shared.artefacts.store import ArtefactStore
from shared.models.answering import AnsweringTeacher
from shared.models.devices import torch_device

MEASURED_S = 1.0
"""How long one measurement takes, or two passes where these take longer."""
INTERACTIVE = 200
"""Requests of one round, or as many as fit in 20 s."""
BULK_ROWS = 1024
BULK_S = 2.0
"""Forward passes that a request of bulk is worth, at most: larger ones only wait longer."""


def main() -> None:
    """Measure and print; `--json` writes the figures too."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="mnist,resnet56,resnet50")
    parser.add_argument("--batches", default="1,4,16,64,256,1024")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--longest-s", type=float, default=30.0, help="batches that take longer are left out")
    parser.add_argument("--company", default="", help="values of TEACHER_COMPANY_MS to compare")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.device}, {asked.threads} threads, {asked.rounds} rounds")
    figures: dict[str, Any] = {}
    for case in cases():
        if case.name not in asked.models.split(","):
            continue
        with tempfile.TemporaryDirectory() as folder:
            state_dir = Path(folder)
            publish(state_dir, case)
            print(f"\n{case.title}")
            with service(state_dir, asked.threads, asked.device) as url:
                bulk = rates(case, state_dir, url, asked)
                figures[case.name] = {
                    "rates": bulk,
                    "interactive": interactive(case, url, asked.rounds, bulk),
                }
            for company_ms in filter(None, asked.company.split(",")):
                settings = {"TEACHER_COMPANY_MS": company_ms}
                with service(state_dir, asked.threads, asked.device, **settings) as url:
                    crowd(case, url, company_ms)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


# --- rows a second -----------------------------------------------------------------------------------------


def rates(case: Case, state_dir: Path, url: str, asked: argparse.Namespace) -> list[dict[str, float]]:
    """Return for each batch the rows a second in process and over HTTP, and their ratio."""
    store = ArtefactStore(state_dir / "store").teachers
    described, model = Teachers(store, device=torch_device(asked.device), max_held=1).hold(case.name)
    found = []
    print(f"{'batch':>6} {'pass ms':>9} {'in process':>11} {'HTTP':>9} {'ratio':>6}   rows a second")
    pass_s = 0.0
    previous = 1
    for rows in map(int, asked.batches.split(",")):
        if pass_s * rows / previous > asked.longest_s:
            print(f"{rows:6} left out: a pass would take more than {asked.longest_s:.0f} s")
            continue
        images = case.images(rows)
        pixels = torch.from_numpy(images)
        _here(model, pixels, 1)
        pass_s, previous = _seconds(partial(_here, model, pixels, 1)), rows
        # Over HTTP a small request takes longer than its pass.
        passes = max(2, math.ceil(MEASURED_S / pass_s))
        requests = max(2, math.ceil(MEASURED_S / max(pass_s, 0.002)))
        pairs = []
        with TeacherClient(url, timeout_s=600, patience_s=1200) as client:
            over_http = partial(_over_http, client, described.digest, case, images)
            over_http(2)
            for _ in range(asked.rounds):
                alone_s = _seconds(partial(_here, model, pixels, passes))
                http_s = _seconds(partial(over_http, requests))
                pairs.append((passes * rows / alone_s, requests * rows / http_s))
        figures = {
            "batch": rows,
            "pass_ms": 1000 * rows / statistics.median(pair[0] for pair in pairs),
            "in_process": statistics.median(pair[0] for pair in pairs),
            "http": statistics.median(pair[1] for pair in pairs),
            "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
        }
        found.append(figures)
        print(
            f"{rows:6} {figures['pass_ms']:9.2f} {figures['in_process']:11,.1f} {figures['http']:9,.1f} "
            f"{figures['ratio']:6.2f}",
            flush=True,
        )
    return found


def _here(model: AnsweringTeacher, pixels: torch.Tensor, passes: int) -> None:
    for _ in range(passes):
        model.softened_logits(pixels, temperature=1.0).cpu()


def _over_http(client: TeacherClient, digest: str, case: Case, images: np.ndarray, requests: int) -> None:
    answers = client.soft_targets(
        case.name, (images for _ in range(requests)), temperature=1.0, expected_digest=digest
    )
    assert sum(len(logits) for _, logits in answers) == requests * len(images)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- interactive requests ----------------------------------------------------------------------------------


def interactive(case: Case, url: str, rounds: int, bulk: list[dict[str, float]]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds of requests of one row, alone and under bulk, and p99's ratio."""
    rate = max(figures["in_process"] for figures in bulk)
    bulk_rows = max(1, min(BULK_ROWS, int(rate * BULK_S)))
    alone: list[float] = []
    beside: list[float] = []
    with httpx.Client(base_url=url, timeout=600) as client:
        for _ in range(rounds):
            alone += _latencies(client, case)
            with _bulk_load(url, case, bulk_rows):
                _latencies(client, case, most=5)  # the service has seen that there are interactive requests
                beside += _latencies(client, case)
    figures = {
        "alone_p50_ms": _quantile(alone, 0.5),
        "alone_p99_ms": _quantile(alone, 0.99),
        "beside_p50_ms": _quantile(beside, 0.5),
        "beside_p99_ms": _quantile(beside, 0.99),
    }
    figures["p99_ratio"] = figures["beside_p99_ms"] / figures["alone_p99_ms"]
    print(
        f"interactive, one row ({len(alone)} requests): p50 {figures['alone_p50_ms']:.1f} ms, "
        f"p99 {figures['alone_p99_ms']:.1f} ms alone; p50 {figures['beside_p50_ms']:.1f} ms, "
        f"p99 {figures['beside_p99_ms']:.1f} ms beside bulk of {bulk_rows} rows; "
        f"p99 {figures['p99_ratio']:.2f} times",
        flush=True,
    )
    return figures


def crowd(case: Case, url: str, company_ms: str) -> None:
    """Print what eight clients with one row at a time get, for a time that requests wait for company."""
    latencies: list[float] = []

    def one() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            latencies.extend(_latencies(client, case))

    threads = [threading.Thread(target=one) for _ in range(8)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(latencies) / (time.perf_counter() - began)
    with httpx.Client(base_url=url, timeout=60) as client:
        alone = _latencies(client, case)
    p50, p99 = _quantile(latencies, 0.5), _quantile(latencies, 0.99)
    print(
        f"company {company_ms:>4} ms: eight clients {rate:7.1f} rows/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms; "
        f"one client p50 {_quantile(alone, 0.5):.1f} ms",
        flush=True,
    )


def _latencies(client: httpx.Client, case: Case, most: int = INTERACTIVE) -> list[float]:
    """Return the milliseconds of requests one after another."""
    body = body_of(case.images(1))
    found: list[float] = []
    deadline = time.perf_counter() + 20
    while len(found) < most and time.perf_counter() < deadline:
        began = time.perf_counter()
        response = client.post(
            f"/v1/teachers/{case.name}/soft-targets?temperature=1",
            content=body,
            headers={
                "Content-Type": "application/vnd.safetensors",
                "Accept": "application/vnd.safetensors",
                "X-Lane": "interactive",
            },
        )
        found.append(1000 * (time.perf_counter() - began))
        response.raise_for_status()
    return found


@contextmanager
def _bulk_load(url: str, case: Case, rows: int) -> Iterator[None]:
    """Ask for bulk from another process meanwhile."""
    context = multiprocessing.get_context("spawn")
    under_way, enough = context.Event(), context.Event()
    process = context.Process(target=_ask_for_bulk, args=(url, case, rows, under_way, enough), daemon=True)
    process.start()
    try:
        if not under_way.wait(120):
            raise RuntimeError("bulk is not answered")
        yield
    finally:
        enough.set()
        process.join(120)


def _ask_for_bulk(url: str, case: Case, rows: int, under_way: Any, enough: Any) -> None:
    images = case.images(rows)
    with TeacherClient(url, timeout_s=600, patience_s=1200) as client:
        digest = client.describe(case.name).digest
        batches = itertools.repeat(images)
        for _ in client.soft_targets(
            case.name, batches, temperature=1.0, expected_digest=digest, should_stop=enough.is_set
        ):
            under_way.set()


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


if __name__ == "__main__":
    main()
