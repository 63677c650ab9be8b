from benchmarks.serving_load import Figures, Server
from benchmarks.serving_table import Row, bars, bars_table, best, floor_of, ratio, ratios, table


def _figures(rate: float, **more: float) -> Figures:
    facts = {"p50_ms": 0.3, "p99_ms": 0.6, "cpu_us": 70.0, "pss_mb": 200.0, "largest_pss_mb": 99.0, **more}
    return Figures(requests_s=rate, errors=0, wrk_cores=0.1, **facts)


def _row(framework: str, name: str, rates: dict[int, list[float]], **more: float) -> Row:
    server = Server(name, framework, "float32", (), "/", tuple(rates))
    figures = {load: [_figures(rate, **more) for rate in found] for load, found in rates.items()}
    return Row(server, figures, [1.0])


OURS = _row("imago", "imago, 2 processes", {1: [3000, 2000, 4000], 16: [9000], 64: [12000]})


def test_the_best_setting_of_a_framework_is_chosen_for_each_load():
    alone = _row("mosec", "mosec 1x1", {1: [1800], 16: [2300]})
    merged = _row("mosec", "mosec 1x32@1", {1: [300], 16: [3400], 64: [8500]})
    assert best([alone, merged], "mosec", 1) is alone
    assert best([alone, merged], "mosec", 16) is merged
    assert best([alone], "mosec", 64) is None


def test_a_ratio_is_the_median_of_those_of_the_rounds():
    # The second round was slow for both; medians of the rates alone would give 1.5.
    theirs = _row("mosec", "mosec 1x1", {1: [1000, 1000, 4000]})
    assert ratio(OURS, theirs, 1) == 2.0


def test_what_was_not_measured_is_no_zero():
    theirs = _row("mosec", "mosec 1x1", {1: [1000]})
    assert "| mosec 1x1 | 1,000 | 0.30 / 0.6 | – | – | – | – | – | 200, 99 | 1.0 | 0 |" in table([theirs])
    assert "| mosec | 1x1: 1,000 | 3.00 | – | – | – | – |" in ratios([OURS, theirs], OURS)


def test_the_best_of_all_peers_is_what_a_bar_is_held_against():
    rows = [
        OURS,
        _row("mosec", "mosec 1x1", {1: [2500, 2500, 2500], 16: [3000], 64: [12500]}),
        _row("litserve", "litserve 1x1", {1: [300, 300, 300], 16: [500], 64: [600]}),
        _row("raw ASGI echo", "raw ASGI echo", {1: [9000], 16: [20000], 64: [20000]}),
    ]
    found = {bar.what: bar for bar in bars(rows, OURS, floor_images_s=None)}
    assert (found["times the best peer, 1 connection"].measured, OURS.errors) == (1.2, 0)
    assert not found["times the best peer, 1 connection"].reached
    assert found["times the best peer, 16 connections"].reached
    assert not found["times the best peer, 64 connections"].reached
    assert found["times LitServe and BentoML, 64 connections"].measured == 20
    assert found["p50 ms, 1 connection"].reached


def test_a_bar_without_a_measurement_is_not_reached():
    found = bars([OURS], OURS, floor_images_s=None)
    assert "| times the best peer, 1 connection | ≥ 1.5 | – | not measured |" in bars_table(found)


def test_resnet_is_held_against_the_runtime_alone():
    name, images_s = floor_of([{"1 x 8": 900.0, "2 x 8": 16000.0}, {"1 x 8": 1000.0, "2 x 8": 14000.0}])
    assert (name, images_s) == ("2 x 8", 15000.0)
    (share, *_) = bars([OURS], OURS, floor_images_s=images_s)
    assert (share.measured, share.reached) == (0.8, False)


def test_a_peer_that_is_given_our_graph_is_held_apart_from_those_with_their_own():
    rows = [
        OURS,
        _row("mosec", "mosec 2x32@1", {64: [6000]}),
        _row("mosec, our graph", "mosec 2x32@1, our graph", {64: [15000]}),
    ]
    found = {bar.what: bar.measured for bar in bars(rows, OURS, floor_images_s=None)}
    assert found["times the best peer, 64 connections"] == 2.0
    assert found["times the best peer that is given our graph, c = 64"] == 0.8
    assert "| mosec, our graph | – | – | – | – | 2x32@1: 15,000 | 0.80 |" in ratios(rows, OURS)
