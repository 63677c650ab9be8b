"""Server-sent events, against the examples of the standard."""

import pytest

from shared.client.sse import EventParser, ServerEvent


def read(*chunks: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_events_carry_kind_id_and_joined_data():
    stream = b"id: 4\nevent: note\ndata: one\ndata: two\n\n"
    assert read(stream) == [ServerEvent("one\ntwo", "note", "4")]


def test_an_id_stays_until_another_comes():
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n"
    assert [event.id for event in read(stream)] == ["1", "1", ""]


def test_comments_and_events_without_data_are_silent():
    assert read(b": keep-alive\n\nevent: note\nid: 1\n\nretry: 1000\n\n") == []


def test_one_space_after_the_colon_is_not_data():
    assert [event.data for event in read(b"data:a\n\ndata:  b\n\ndata\n\n")] == ["a", " b", ""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_cut_anywhere_reads_the_same(end: bytes):
    stream = end.join([b"id: 1", b"data: caf\xc3\xa9", b"", b"id: 2", b"data: b", b"", b""]) + b"\n"
    whole = [ServerEvent("café", "message", "1"), ServerEvent("b", "message", "2")]
    for cut in range(len(stream)):
        assert read(stream[:cut], stream[cut:]) == whole
    assert read(*(bytes([byte]) for byte in stream)) == whole


def test_an_event_that_was_not_finished_is_dropped():
    assert read(b"data: whole\n\ndata: half\n") == [ServerEvent("whole")]


def test_separators_of_unicode_do_not_end_a_line():
    assert read("data: a\u2028b\x85c\x0bd\n\n".encode()) == [ServerEvent("a\u2028b\x85c\x0bd")]


def test_a_byte_order_mark_at_the_start_is_skipped():
    assert read(b"\xef\xbb\xbfdata: a\n\n") == [ServerEvent("a")]
