"""Budgets: what a run may use, and what all processes of a run may use together."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from escapement.engine.guards.steps import Answered, Asked, Verdict
from escapement.words.config import Settings

_WARNED_AT: Final = 0.8
_NEARLY: Final = 1 - 1e-9  # ten times a tenth of a limit has reached it


class Budgets:
    """Counts what steps used and says when it is too much. Without limits it counts all the same, for messages."""

    def __init__(self, settings: Settings) -> None:
        self.limits: dict[str, float] = {
            rule: limit
            for rule, limit in (
                ("calls", settings.max_calls),
                ("tokens", settings.max_tokens),
                ("cost", settings.max_cost),
                ("duration", settings.max_duration),
            )
            if limit is not None
        }
        self.used: dict[str, float] = {"calls": 0, "tokens": 0, "cost": 0.0, "duration": 0.0}
        self.unpriced = 0
        """Calls whose cost is not known."""

    @property
    def priced(self) -> bool:
        """Whether there is a limit to what calls cost, so that each has to be priced."""
        return "cost" in self.limits

    def asked(self, step: Asked, shared: Mapping[str, float] | None = None) -> Iterator[Verdict]:
        """What is to be said before a step is sent; `shared` is what all processes used."""
        if not self.limits:
            return
        used = self.used if shared is None else {**self.used, **shared}
        used = {**used, "duration": max(step.at / 1e9, used["duration"])}
        whose = "the run" if shared is None else "all processes of the run together"
        for rule, limit in self.limits.items():
            amount = used[rule]
            over = amount >= limit * _NEARLY
            if rule == "calls":
                amount += 1  # the one that is asked for: of ten, the eighth is warned about and the eleventh refused
            if not over and amount < limit * _WARNED_AT * _NEARLY:
                continue
            may, has = _ALLOWED[rule].format(_shown(rule, limit)), _HAS[rule].format(_shown(rule, amount))
            what = f"{whose} may {may}, and {has}"
            yield Verdict(rule, "stop" if over else "warn", what, amount, limit, (step.step,))

    def count(self, calls: int = 0, step: Answered | None = None) -> None:
        """Count a call that is made, or what a step used."""
        self.used["calls"] += calls
        if step is not None:
            self.used["tokens"] += step.tokens
            self.used["cost"] += step.cost or 0.0
            self.unpriced += step.cost is None


_ALLOWED: Final = {
    "calls": "make {} calls (max_calls)",
    "tokens": "use {} tokens (max_tokens)",
    "cost": "cost {} (max_cost)",
    "duration": "take {} (max_duration)",
}
_HAS: Final = {
    "calls": "this is call {}",
    "tokens": "has used {}",
    "cost": "has cost {}",
    "duration": "has taken {}",
}


def _shown(rule: str, amount: float) -> str:
    if rule == "cost":
        return f"${amount:.4f}".rstrip("0").rstrip(".") if amount else "$0"
    if rule == "duration":
        return f"{amount:.3g} s" if amount < 100 else f"{amount:.0f} s"
    return f"{amount:,.0f}"


_RECORD: Final = struct.Struct("<4sIqqd4s")
_BEGIN: Final = b"ESC<"
_END: Final = b">ESC"


class SharedUse:
    """What several processes used, in a file to which each appends: 36 bytes when it makes a call, 36 when it has its
    answer.

    A record is one `write` to the end, so records of processes that write at the same time stand one after the other,
    and what a process wrote before it was killed counts. Records have marks at both ends: one that is not whole (a
    full disk) is passed over. Reading goes on from where it ended. The earliest record says when it all began.
    """

    def __init__(self, path: Path, began: int) -> None:
        # `began`: when this process did, in nanoseconds since the epoch. Raises OSError.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._at = 0
        self._began = 0
        self._calls = 0
        self._tokens = 0
        self._cost = 0.0
        self.add(when=began)

    def add(self, calls: int = 0, tokens: int = 0, cost: float = 0.0, when: int = 0) -> None:
        """Append a record. Raises OSError."""
        os.write(self._file, _RECORD.pack(_BEGIN, calls, when or time.time_ns(), tokens, cost, _END))

    def read(self) -> dict[str, float]:
        """What all used so far, by rule; as far as it can be read."""
        size = _RECORD.size
        while len(data := self._data(size * 1024)) >= size:
            at = 0
            while at + size <= len(data):
                begin, calls, when, tokens, cost, end = _RECORD.unpack_from(data, at)
                if begin != _BEGIN or end != _END:
                    at = data.find(_BEGIN, at + 1)
                    if at < 0:
                        at = len(data) - len(_BEGIN) + 1
                    continue
                at += size
                self._began = min(self._began or when, when)
                self._calls += calls
                self._tokens += tokens
                self._cost += cost
            self._at += at
        seconds = (time.time_ns() - self._began) / 1e9 if self._began else 0.0
        return {"calls": self._calls, "tokens": self._tokens, "cost": self._cost, "duration": seconds}

    def _data(self, most: int) -> bytes:
        try:
            return os.pread(self._file, most, self._at)
        except OSError:
            return b""

    def close(self) -> None:
        os.close(self._file)
