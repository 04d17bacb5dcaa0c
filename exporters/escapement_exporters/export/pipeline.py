"""OTLP export of runs as they happen: two threads, a spool, and no way in which the program could notice.

    the program → queue → (encoding) → a few batches → (sending) → the receiver
                                            ↓               ↑
                                          the spool, on disk

What the sender has no room for, and what it could not send, goes to the spool. It is sent when the receiver is back, in
this process or in a later one.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from escapement.store.journal import Record
from escapement.store.layout import Layout
from escapement.words.config import Settings
from escapement_exporters.export.live import Run
from escapement_exporters.export.spool import Spool
from escapement_exporters.export.worker import Worker
from escapement_exporters.otlp.batches import Batch, Batches, count
from escapement_exporters.otlp.endpoint import Endpoint
from escapement_exporters.otlp.sending import Receiver, connect, deliver

_log = logging.getLogger("escapement")

_WAITING: Final = 4
"""Batches in memory that the sender has not come to."""
_AT_EXIT: Final = 2.0
"""Seconds for which the end of a program waits."""
_BACKOFF: Final = (1.0, 60.0)
"""Seconds after which a receiver that did not answer is tried again: the first time, and at most."""
_WITHIN: Final = 30.0
"""Seconds for one request, where the variables do not say fewer (they say 10)."""

_pipelines: dict[tuple[Any, ...], Pipeline] = {}
_lock = threading.RLock()


def outlet(to: Endpoint, settings: Settings) -> Run:
    """The outlet of a run, to a receiver. Raises ConfigError where the standard variables say something wrong."""
    store = Layout.of(settings.storage_dir)
    with _lock:
        key = (to, str(store.root.absolute()))
        if key not in _pipelines:
            _pipelines[key] = Pipeline(to, Spool(store))
        return Run(_pipelines[key], settings)


class Pipeline:
    """The way from runs to one receiver."""

    def __init__(self, to: Endpoint, spool: Spool) -> None:
        self._to = to
        self._spool = spool
        self._told = False
        # At once: much of what it imports can no longer be imported when the program ends.
        self._receiver: Receiver | None = connect(to, "traces")
        self._reset()
        _all.add(self)
        atexit.register(self.finish)
        if spool.waiting():
            self._sending.start()  # what an earlier run could not send

    def _reset(self) -> None:
        self._batches = Batches()
        self._encoding = Worker("escapement-otlp-encode", self._encode, self.finish, self._flush)
        self._sending = Worker("escapement-otlp-send", self._send_one, self.finish, self._send_waiting)
        self._in_flight: Batch | None = None
        self._down_until = 0.0
        self._backoff = _BACKOFF[0]
        self._totals: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._missed = 0
        self._ending = False

    # -- on the program's threads --------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return self._encoding.has_room

    def has_room_for(self, size: int) -> bool:
        return self._encoding.has_room_for(size)

    def put(self, item: tuple[Run, Record], size: int) -> None:
        self._encoding.put(item, size)

    def missed(self) -> None:
        self._missed += 1

    def hurry(self) -> None:
        """A run has ended: there is no point in waiting for more."""
        self._encoding.hurry()

    # -- encoding ------------------------------------------------------------------------------------------------

    def _encode(self, item: tuple[Run, Record]) -> None:
        run, record = item
        try:
            for span in run.spans(record):
                version = run.resource.get("telemetry.sdk.version")
                for batch in self._batches.add(span, run, run.resource, version):
                    self._hand_over(batch)
        except Exception:
            if record["record"] != "start":
                self._totals["dropped"] += 1
                run.counted["dropped"] += 1
            raise

    def _flush(self) -> None:
        for batch in self._batches.flush():
            self._hand_over(batch)

    def _hand_over(self, batch: Batch) -> None:
        if self._sending.waiting >= _WAITING or time.monotonic() < self._down_until:
            self._keep(batch)
            self._sending.start()
        else:
            self._sending.put(batch)
            self._sending.hurry()

    # -- the spool -----------------------------------------------------------------------------------------------

    def _keep(self, batch: Batch) -> None:
        """Have a batch on disk, to be sent later."""
        try:
            gone = self._spool.put(batch.data)
        except OSError as error:
            self._count("dropped", batch)
            self._tell(f"spans cannot be spooled in {self._spool.folder} ({error.strerror or error})")
            return
        self._count("spooled", batch)
        for data in gone:
            self._totals["dropped"] += count(data)
        if gone:
            self._tell(f"the spool in {self._spool.folder} is full: the oldest spans were dropped")

    def _count(self, what: str, batch: Batch) -> None:
        with self._counting:  # two threads of ours count
            self._totals[what] += batch.spans
            for run, spans in batch.of.items():
                run.counted[what] += spans

    def _tell(self, what: str) -> None:
        """Say something once: who wants to know more asks `escapement info`."""
        if not self._told:
            self._told = True
            _log.warning("Escapement: %s. The recordings are whole; `escapement otlp push ID` sends them.", what)

    # -- sending -------------------------------------------------------------------------------------------------

    def _send_one(self, batch: Batch) -> None:
        self._in_flight = batch
        try:
            left = [batch] if time.monotonic() < self._down_until else self._send(batch)
            if self._in_flight is batch:  # else the end of the program has taken it
                for part in left:
                    self._keep(part)
        finally:
            self._in_flight = None

    def _send(self, batch: Batch) -> list[Batch]:
        """What is to be sent again later; the rest was sent, or will never be taken."""
        left = []
        for part, answer in deliver(self._connected(), batch, _WITHIN):
            if answer.outcome == "later":
                left.append(part)
                self._down_until = time.monotonic() + self._backoff
                self._backoff = min(self._backoff * 2, _BACKOFF[1])
                self._tell(f"{self._to.shown} does not take spans ({answer.reason}); they wait in {self._spool.folder}")
                continue
            self._backoff, self._down_until = _BACKOFF[0], 0.0
            self._count("sent" if answer.outcome == "sent" else "dropped", part)
            if answer.outcome != "sent":
                self._tell(f"{self._to.shown} refuses spans ({answer.reason})")
            elif answer.rejected:
                self._totals["rejected"] += answer.rejected
                self._tell(f"{self._to.shown} rejected {answer.rejected} spans ({answer.reason})")
        return left

    def _connected(self) -> Receiver:
        if self._receiver is None:
            self._receiver = connect(self._to, "traces")
        return self._receiver

    def _send_waiting(self) -> None:
        """Nothing new is there: send what waits on disk."""
        while not self._ending and not self._sending.waiting and time.monotonic() >= self._down_until:
            segment = self._spool.take()
            if segment is None:
                break
            left = self._send(Batch(segment.data, count(segment.data)))
            if left:
                segment.put_back()  # all of it: better twice than never
            else:
                segment.done()
        self._save_totals()

    def _save_totals(self) -> None:
        with self._counting:
            totals = self._totals + Counter(dropped=self._missed)
            self._totals, self._missed = Counter(), 0
        with suppress(OSError):
            self._spool.add(totals)

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, within: float = _AT_EXIT) -> None:
        """Have everything sent, or on disk, when this returns."""
        deadline = time.monotonic() + within
        if not self._encoding.finish(within):
            left = self._encoding.take_left()
            self._totals["dropped"] += sum(record["record"] != "start" for _, record in left)
            self._tell(f"the program has ended before {len(left)} records were exported")
        self._ending = True
        self._sending.finish(max(0.05, deadline - time.monotonic()))
        flying, self._in_flight = self._in_flight, None
        for batch in [*([flying] if flying is not None else []), *self._sending.take_left()]:
            self._keep(batch)  # one that is being sent right now may arrive twice, which is better than never
        self._save_totals()
        self._spool.close()
        self._ending = False

    def after_fork(self) -> None:
        """In a child process: threads, connections and what was on its way are the parent's."""
        self._spool.after_fork()
        self._receiver = None
        self._reset()


_all: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for pipeline in list(_all):
        pipeline.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def finish(within: float = _AT_EXIT) -> None:
    """Have everything sent or spooled that runs of this process have left so far."""
    for pipeline in list(_pipelines.values()):
        pipeline.finish(within)
