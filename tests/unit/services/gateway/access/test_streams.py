"""Answers that outlast the moment in which their key was looked at."""

from shared.contracts.keys import Scope


def test_a_stream_of_events_ends_with_its_key(client, served):
    key, other = served.key(Scope.JOBS), served.key(Scope.JOBS)
    spec = {"kind": "teacher", "name": "streamed", "dataset": "mnist-5k"}
    job_id = client.post("/v1/jobs", json=spec, headers=key).json()["id"]
    with (
        client.stream("GET", f"/v1/jobs/{job_id}/events", headers=key) as revoked,
        client.stream("GET", f"/v1/jobs/{job_id}/events", headers=other) as valid,
    ):
        lines, others = revoked.iter_lines(), valid.iter_lines()
        for told in (lines, others):
            assert any("queued" in line for line in told)
        served.store.keys.revoke(key["Authorization"][13:25])
        assert "queued" not in "".join(lines), "it ends, and says nothing more"
        client.post(f"/v1/jobs/{job_id}/cancel", headers=other)
        assert any("cancelled" in line for line in others), "the other one goes on"
    assert client.get(f"/v1/jobs/{job_id}/events", headers=key).status_code == 401
