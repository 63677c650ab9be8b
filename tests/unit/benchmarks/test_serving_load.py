import pytest

from benchmarks.serving_load import said_by

_QUIET = """Running 2s test @ http://127.0.0.1:40001/v1/predictions
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.55ms    2.10ms  20.97ms   80.81%
    Req/Sec    12.9k      1.1k    14.2k    70.00%
  Latency Distribution
     50%  850.00us
     75%    5.00ms
     90%    9.00ms
     99%    1.25s
  25884 requests in 2.00s, 9.50MB read
Requests/sec:  12942.17
Transfer/sec:      4.75MB
"""


def test_rate_and_latencies_are_read_in_one_unit():
    said = said_by(_QUIET)
    assert (said.requests, said.requests_s) == (25884, 12942.17)
    assert (said.p50_ms, said.p99_ms) == (0.85, 1250.0)
    assert said.errors == 0


def test_refusals_and_broken_connections_are_errors():
    output = _QUIET + (
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    )
    assert said_by(output).errors == 54321


def test_output_without_latencies_is_no_measurement():
    with pytest.raises(RuntimeError, match="50%"):
        said_by(_QUIET.replace("50%", "51%"))
