"""A trace in numbers, for the commands that show traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from escapement.cli import output
from escapement.engine import usage
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv
from escapement.words.config import resolve


@dataclass(frozen=True, slots=True)
class Overview:
    """What a trace comes to. What it took over from another trace cost nothing again."""

    row: TraceRow
    steps: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    models: tuple[str, ...]
    duration: int | None

    @classmethod
    def of(cls, row: TraceRow, prices: Prices | None = None) -> Overview:
        ledger = usage.Ledger(prices or Prices.of(resolve()))
        for step in row.steps:
            if step.source is None and semconv.SERVED_FROM not in step.attributes and step.answered:
                ledger.add(step.attributes, step.attributes, step.start)
        models = dict.fromkeys(model_of(step) for step in row.steps if model_of(step))
        ends = [step.end for step in row.steps if step.end is not None and step.source is None]
        last = row.ended or max(ends, default=None)
        return cls(
            row=row,
            steps=len(row.steps),
            input_tokens=ledger.input,
            output_tokens=ledger.output,
            cost=ledger.cost(),
            models=tuple(models),
            duration=last - row.created if last is not None and row.created else None,
        )

    @property
    def forked_at(self) -> int | None:
        """The first step that went live, of a trace that has a parent."""
        if self.row.parent is None:
            return None
        served = (step.source or step.attributes.get(semconv.SERVED_FROM) for step in self.row.steps)
        return min((step.step for step, other in zip(self.row.steps, served, strict=True) if not other), default=None)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def status(self) -> str:
        return self.row.status if self.row.complete else f"{self.row.status} (incomplete)"

    def as_json(self) -> dict[str, Any]:
        row = self.row
        return {
            "id": row.trace_id,
            "name": row.name,
            "status": row.status,
            "complete": row.complete,
            "mode": row.mode,
            "parent": row.parent,
            "forked_at": self.forked_at,
            "tags": list(row.tags),
            "metadata": dict(row.metadata),
            "steps": self.steps,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost,
            "models": list(self.models),
            "created": output.iso(row.created),
            "duration_s": self.duration / 1e9 if self.duration is not None else None,
            "error": row.error,
            "steps_lost": row.lost,
            "lines_damaged": row.damaged,
        }


def model_of(step: StepRow) -> str:
    return str(step.attributes.get(semconv.REQUEST_MODEL) or step.attributes.get(semconv.RESPONSE_MODEL) or "")
