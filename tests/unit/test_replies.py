"""Replies of servers: read as h11 reads them, however their bytes are cut."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.runtimes.http.replies import HEAD_BYTES_MAX, LINES_BYTES_MAX, BrokenReply, Reply

USUAL = [
    b"Content-Type: text/event-stream\r\n",
    b"Retry-After:  7 \t\r\n",
    b"Connection: keep-alive\r\n",
    b"Set-Cookie: a\r\n",
    b"Set-Cookie: b\r\n",
]
ODD = [
    b"Connection: close\r\n",
    b"Connection: x, close\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: Chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"X: \xe9\r\n",
    b"X: a\x00b\r\n",
    b"X: a\rb\r\n",
    b"X : a\r\n",
    b" folded\r\n",
    b"no colon\r\n",
    b"\n",
]
STARTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\n",
    b"HTTP/2 200\r\n",
    b"SSH-2.0\r\n",
]
BODIES = [
    (b"", b"5 bytes of it"),
    (b"Content-Length: 5\r\n", b"hello"),
    (b"Content-Length: 0\r\n", b""),
    (b"Content-Length: 9\r\n", b"hello"),
    (b"Content-Length: 3\r\n", b"hello"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"0005;a=b\r\nhello\r\nB\r\n, my\r\nworld\r\n0\r\nX: y\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello world\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"x\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"-5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\nmore"),
]
Read = tuple[int, bytes, bytes | None] | None  # status, body, Retry-After; none of what is no reply

heads = st.lists(st.sampled_from(USUAL) | st.sampled_from(ODD), max_size=3).map(b"".join)
usual_heads = st.lists(st.sampled_from(USUAL), max_size=3).map(b"".join)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from(STARTS[:3]) | st.sampled_from(STARTS))
    framing, body = draw(st.sampled_from(BODIES))
    return start + draw(usual_heads | heads) + framing + draw(usual_heads) + b"\r\n" + body


def by_h11(data: bytes) -> Read:
    reader = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
    reader.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    reader.send(h11.EndOfMessage())
    status, fields, body = 0, {}, b""
    try:
        for part in (data, b""):
            reader.receive_data(part)
            while (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status, fields = event.status_code, dict(event.headers)
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return status, body, fields.get(b"retry-after")
    except h11.RemoteProtocolError:
        pass
    return None


def by_us(data: bytes, cuts: list[int]) -> Read:
    reply, body, begin = Reply(), b"", 0
    try:
        for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
            if not reply.is_over and begin < end:
                body += reply.feed(data[begin:end])
            begin = end
        if not reply.is_over:
            reply.end()
    except BrokenReply:
        return None
    return reply.status, body, reply.fields.get(b"retry-after")


@given(replies(), st.lists(st.integers(0, 400), max_size=5))
@example(STARTS[0] + BODIES[5][0] + b"\r\n" + BODIES[5][1], list(range(400)))
@example(STARTS[6] + BODIES[6][0] + b"\r\n" + BODIES[6][1], list(range(400)))
@example(STARTS[0] + b"Content-Length: 5\r\n" + BODIES[3][0] + b"\r\n" + BODIES[3][1], [])
@example(STARTS[0] + BODIES[3][0] + b"Content-Length: 5\r\n\r\n" + BODIES[3][1], [])
@example(STARTS[0] + b"Content-Length: 5\r\n" + BODIES[5][0] + b"\r\n" + BODIES[5][1], [])
def test_a_reply_is_read_as_h11_reads_it(data: bytes, cuts: list[int]) -> None:
    assert by_us(data, cuts) == by_h11(data)


@given(st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=3))
def test_noise_is_no_reply(data: bytes, cuts: list[int]) -> None:
    assert by_us(data, cuts) is None
    assert by_us(b"HTTP/1.1 200 OK\r\n" + data, cuts) == by_h11(b"HTTP/1.1 200 OK\r\n" + data)


@pytest.mark.parametrize(
    ("head", "body", "may_stay"),
    [
        (b"Content-Length: 2\r\n", b"ok", True),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n", True),
        (b"Content-Length: 2\r\nConnection: close\r\n", b"ok", False),
        (b"Content-Length: 2\r\nConnection: close\r\nConnection: keep-alive\r\n", b"ok", False),
        (b"Content-Length: 2\r\n", b"ok, and more", False),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", False),
        (b"X: a\r\n folded\r\nContent-Length: 2\r\n", b"ok", False),
    ],
)
def test_a_connection_stays_where_its_reply_has_an_end(head: bytes, body: bytes, may_stay: bool) -> None:
    reply = Reply()
    assert reply.feed(STARTS[0] + head + b"\r\n" + body) == b"ok"
    assert reply.may_stay is may_stay


def test_what_has_no_end_is_refused() -> None:
    for begin, more in (
        (STARTS[0], b"X: " + b"x" * 1000 + b"\r\n"),
        (STARTS[0] + BODIES[5][0] + b"\r\n5\r\nhello\r\n5", b";" + b"x" * 1000),
        (STARTS[0] + BODIES[5][0] + b"\r\n0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    ):
        reply = Reply()
        reply.feed(begin)
        with pytest.raises(BrokenReply):
            _feed(reply, more, (HEAD_BYTES_MAX + LINES_BYTES_MAX) // len(more) + 2)


@pytest.mark.parametrize("piece", [b"5\r\nhelloxx", b"5\r\nhello\n\n", b"4\r\nhello\r\n"])
def test_a_piece_that_does_not_end_where_it_says_is_refused(piece: bytes) -> None:
    for begin in (b"", b"2\r\nok\r\n"):
        reply = Reply()
        reply.feed(STARTS[0] + BODIES[5][0] + b"\r\n" + begin)
        with pytest.raises(BrokenReply):
            _feed(reply, piece, 2)


def _feed(reply: Reply, more: bytes, times: int) -> None:
    for _ in range(times):
        reply.feed(more)


def test_a_long_body_may_come_with_its_head() -> None:
    body = bytes(2 * HEAD_BYTES_MAX)
    assert Reply().feed(STARTS[0] + b"Content-Length: %d\r\n\r\n" % len(body) + body) == body


def test_what_was_packed_is_refused() -> None:
    with pytest.raises(BrokenReply, match="packed"):
        Reply().feed(STARTS[0] + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok")
