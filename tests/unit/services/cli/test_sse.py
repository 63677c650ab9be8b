"""Server-sent events, against the examples of the standard."""

import pytest

from services.cli.sse import ServerEvent, read_events, read_lines


def test_events_carry_kind_id_and_joined_data():
    stream = b"id: 4\nevent: note\ndata: one\ndata: two\n\n"
    assert list(read_events([stream])) == [ServerEvent("one\ntwo", "note", "4")]


def test_an_id_stays_until_another_comes():
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n"
    assert [event.id for event in read_events([stream])] == ["1", "1", ""]


def test_comments_and_events_without_data_are_silent():
    assert list(read_events([b": keep-alive\n\nevent: note\nid: 1\n\nretry: 1000\n\n"])) == []


def test_one_space_after_the_colon_is_not_data():
    assert [event.data for event in read_events([b"data:a\n\ndata:  b\n\ndata\n\n"])] == ["a", " b", ""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_cut_anywhere_reads_the_same(end: bytes):
    stream = end.join([b"id: 1", b"data: caf\xc3\xa9", b"", b"id: 2", b"data: b", b"", b""]) + b"\n"
    whole = [ServerEvent("café", "message", "1"), ServerEvent("b", "message", "2")]
    for cut in range(len(stream)):
        assert list(read_events([stream[:cut], stream[cut:]])) == whole
    assert list(read_events(bytes([byte]) for byte in stream)) == whole


def test_an_event_that_was_not_finished_is_dropped():
    assert list(read_events([b"data: whole\n\ndata: half\n"])) == [ServerEvent("whole")]


def test_separators_of_unicode_do_not_end_a_line():
    assert list(read_lines(["a\u2028b\x85c\x0bd\n".encode()])) == ["a\u2028b\x85c\x0bd"]


def test_a_byte_order_mark_at_the_start_is_skipped():
    assert list(read_lines([b"\xef\xbb\xbfdata: a\n"])) == ["data: a"]
