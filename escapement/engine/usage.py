"""What a run used: tokens by model, and what they cost at list prices (genai-prices). Unknown is None, never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from escapement.words import semconv


@dataclass(slots=True)
class Usage:
    """Tokens of calls to one model. `cache_read` and `cache_write` are part of `input`, `reasoning` of `output`."""

    calls: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


Ledger = dict[tuple[str, str], Usage]
"""Usage by provider and model."""

_FIELDS = (
    ("input", semconv.USAGE_INPUT_TOKENS),
    ("output", semconv.USAGE_OUTPUT_TOKENS),
    ("cache_read", semconv.USAGE_CACHE_READ),
    ("cache_write", semconv.USAGE_CACHE_WRITE),
    ("reasoning", semconv.USAGE_REASONING),
)


def add(ledger: Ledger, asked: Mapping[str, Any], answered: Mapping[str, Any]) -> None:
    """Count a call, from the attributes that its span had at its start and at its end."""
    provider = asked.get(semconv.PROVIDER_NAME, "")
    model = answered.get(semconv.RESPONSE_MODEL) or asked.get(semconv.REQUEST_MODEL) or ""
    usage = ledger.get((provider, model))
    if usage is None:
        usage = ledger[provider, model] = Usage()
    usage.calls += 1
    for field, name in _FIELDS:
        value = answered.get(name)
        if value:
            setattr(usage, field, getattr(usage, field) + value)


def total(ledger: Ledger) -> Usage:
    whole = Usage()
    for usage in ledger.values():
        for field in ("calls", "input", "output", "cache_read", "cache_write", "reasoning"):
            setattr(whole, field, getattr(whole, field) + getattr(usage, field))
    return whole


def cost(ledger: Ledger) -> float | None:
    """US dollars for a ledger; None as soon as one model that used tokens has no known price."""
    dollars = 0.0
    for (provider, model), usage in ledger.items():
        if not usage.input and not usage.output:
            continue
        price = _price(provider, model, usage)
        if price is None:
            return None
        dollars += price
    return dollars


def cost_of(attributes: Iterable[Mapping[str, Any]]) -> float | None:
    """US dollars for calls, from the attributes of their spans."""
    ledger: Ledger = {}
    for call in attributes:
        add(ledger, call, call)
    return cost(ledger)


_PROVIDERS = {
    "azure.ai.openai": "azure",
    "aws.bedrock": "aws",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
    "together_ai": "together",
}


def _price(provider: str, model: str, usage: Usage) -> float | None:
    import genai_prices

    try:
        calculation = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.input,
                output_tokens=usage.output,
                cache_read_tokens=usage.cache_read,
                cache_write_tokens=usage.cache_write,
            ),
            model_ref=model,
            provider_id=_PROVIDERS.get(provider, provider),
        )
    except (LookupError, ValueError):
        return None
    return float(calculation.total_price)
