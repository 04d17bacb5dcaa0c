"""A trace in numbers, for the commands that show traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from escapement.cli import output
from escapement.engine import usage
from escapement.store.rows import StepRow, TraceRow
from escapement.words import semconv


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
    def of(cls, row: TraceRow) -> Overview:
        ledger: usage.Ledger = {}
        for step in row.steps:
            if step.source is None and step.answered:
                usage.add(ledger, step.attributes, step.attributes)
        whole = usage.total(ledger)
        models = dict.fromkeys(model_of(step) for step in row.steps if model_of(step))
        ends = [step.end for step in row.steps if step.end is not None and step.source is None]
        last = row.ended or max(ends, default=None)
        return cls(
            row=row,
            steps=len(row.steps),
            input_tokens=whole.input,
            output_tokens=whole.output,
            cost=usage.cost(ledger),
            models=tuple(models),
            duration=last - row.created if last is not None and row.created else None,
        )

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
