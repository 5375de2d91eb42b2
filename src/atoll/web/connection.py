"""One connection of HTTP: who reads what comes, and for how long it may be still.

Requests of the common form are read by plain.py, all others by h11; they share a connection, in turn. uvicorn
by itself would wait for good where no head of a request comes, or nothing of an answer is taken; places are
few, and an engine may be held meanwhile.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from atoll.web.plain import PUT, WHEN_GONE, WHOLE, Exchange, Head, read_head, scope_of

HEAD_SECONDS_MAX = 30.0
IDLE_SECONDS_MAX = 5.0
STILL_SECONDS_MAX = 60.0


class Connection(H11Protocol):
    _exchange: Exchange | None = None  # of a plain request; its body may come on when the answer is whole
    _later = b""  # what came while one was answered
    _is_expected = True  # the rest of a head, or the first one
    _free_since = 0.0
    _rest: asyncio.TimerHandle | None = None
    _still: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._around = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
        }
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            data = self._exchange.take(data)
            if not self._exchange.is_over:
                self._keep(data)
                return
            self._exchange = None
            if not data:
                return
        head = read_head(data) if self._is_between() else None
        if head is not None:
            self._begin(head, data)
            return
        self._is_expected = True
        super().data_received(data)

    def _keep(self, data: bytes) -> None:
        if data:
            self._later += data
            self.flow.pause_reading()  # so that an end behind it is not heard before it was answered

    def _is_between(self) -> bool:
        """Nothing of a request is in h11's hands, and there is room for one more."""
        return (
            self._is_free()
            and self.conn.our_state is h11.IDLE
            and self.conn.their_state is h11.IDLE
            and not self.conn.trailing_data[0]
            and not self._is_crowded()
        )

    def _is_free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_crowded(self) -> bool:
        most = self.limit_concurrency
        return most is not None and (len(self.connections) >= most or len(self.tasks) >= most)

    def _begin(self, head: Head, data: bytes) -> None:
        always = self.server_state.default_headers
        exchange = Exchange(self.transport, self.flow, always, head.length, self.on_response_complete)
        self._exchange = self.cycle = exchange  # type: ignore[assignment]
        scope = scope_of(head, self._around)
        scope[WHEN_GONE], scope[PUT], scope[WHOLE] = exchange.when_gone, exchange.put, exchange.whole
        self._keep(exchange.take(data[head.end :]))
        task = self.loop.create_task(exchange.run(self.app, scope))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._is_expected = self._exchange is not None and not self._exchange.is_over  # of what was refused
        if not self._is_expected:
            self._exchange = None
        self._wait_for_request()
        later, self._later = self._later, b""
        self.flow.resume_reading()
        if later:
            self.data_received(later)
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE:
            self.conn.start_next_cycle()
            self.handle_events()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._still)
        if self._is_free():
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._rest)
        _cancel(self._still)
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.lose()

    def _wait_for_request(self) -> None:
        """From now on. A timer that is set already finds out by itself how long is left."""
        self._free_since = self.loop.time()
        due = self._due()
        if self._rest is None or self._rest.when() > due:
            _cancel(self._rest)
            self._rest = self.loop.call_at(due, self._look_for_request)

    def _due(self) -> float:
        return self._free_since + (HEAD_SECONDS_MAX if self._is_expected else IDLE_SECONDS_MAX)

    def _look_for_request(self) -> None:
        self._rest = None
        if not self._is_free() or self.transport.is_closing():
            return
        if left := self.transport.get_write_buffer_size():
            self._wait_for_reader(left)  # the end of the answer before is still on its way
        elif self.loop.time() < (due := self._due()):
            self._rest = self.loop.call_at(due, self._look_for_request)
        elif self._is_expected:
            self.transport.abort()
        else:
            self.transport.close()

    def _wait_for_reader(self, left: int) -> None:
        _cancel(self._still)
        self._still = self.loop.call_later(STILL_SECONDS_MAX, self._look_for_reader, left)

    def _look_for_reader(self, left_before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left == 0:
            self._wait_for_request()
        elif left < left_before:
            self._wait_for_reader(left)
        else:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
