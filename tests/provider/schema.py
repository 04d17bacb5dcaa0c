"""A random value that satisfies a JSON schema, as structured output and tool arguments need."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from . import words

_DEEP = 3  # followed references after which a value is kept as small as it may be


def sample(schema: dict[str, Any]) -> Any:
    """A random value of the schema (`pattern` is the one common keyword not honoured)."""
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def value(self, schema: dict[str, Any], depth: int) -> Any:
        if "$ref" in schema:
            return self.value({**self._referred(schema["$ref"]), **_without(schema, "$ref")}, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return words.pick(schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                option = self._option(schema[keyword], depth)
                return self.value({**_without(schema, keyword), **option}, depth)
        if "allOf" in schema:
            return self.value(self._merged(schema), depth)
        return self._typed(schema, depth)

    def _referred(self, reference: str) -> dict[str, Any]:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return dict(found)

    def _option(self, options: list[dict[str, Any]], depth: int) -> dict[str, Any]:
        flat = [option for option in options if option.get("type") == "null"] if depth > _DEEP else []
        return words.pick(flat or options)

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = _without(schema, "allOf")
        for part in schema["allOf"]:
            while "$ref" in part:
                part = {**self._referred(part["$ref"]), **_without(part, "$ref")}
            both = {
                "properties": {**merged.get("properties", {}), **part.get("properties", {})},
                "required": [*merged.get("required", []), *part.get("required", [])],
            }
            merged = {**merged, **part, **{key: value for key, value in both.items() if value}}
        return merged

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match words.pick(kind) if isinstance(kind, list) else kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                low, high = _bounds(schema, step=1)
                unit = int(schema.get("multipleOf", 1))
                return words.integer(math.ceil(low / unit), math.floor(high / unit)) * unit
            case "number":
                low, high = _bounds(schema, step=1e-6)
                return min(max(round(words.number(low, high), 6), low), high)
            case "boolean":
                return words.chance(0.5)
            case "null":
                return None
            case _:
                return _string(schema)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        chosen = {
            name: self.value(part, depth)
            for name, part in schema.get("properties", {}).items()
            if name in required or (depth <= _DEEP and words.chance(0.6))
        }
        # An object of no named property is a free mapping, unless it is closed.
        others = schema.get("additionalProperties", {"type": "string"})
        if not schema.get("properties") and others is not False and depth <= _DEEP:
            part = others if isinstance(others, dict) else {"type": "string"}
            chosen |= {words.word(): self.value(part, depth) for _ in range(2)}
        return chosen

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(part, depth) for part in schema["prefixItems"]]
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", least + 3))
        size = least if depth > _DEEP else words.integer(min(max(least, 1), most), most)
        return [self.value(schema.get("items") or {"type": "string"}, depth) for _ in range(size)]


def _without(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != keyword}


def _bounds(schema: dict[str, Any], step: float) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    low = (0 if high is None else min(0, high - 10**6)) if low is None else low
    high = low + 10**6 if high is None else high
    return low + step * ("exclusiveMinimum" in schema), high - step * ("exclusiveMaximum" in schema)


def _moment() -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=words.integer(0, 10**8))


_FORMATS: dict[str, Callable[[], str]] = {
    "date-time": lambda: _moment().isoformat(),
    "date": lambda: _moment().date().isoformat(),
    "time": lambda: _moment().timetz().isoformat(),
    "duration": lambda: f"P{words.integer(1, 99)}DT{words.integer(1, 23)}H",
    "email": lambda: f"{words.word()}@{words.word()}.com",
    "hostname": lambda: f"{words.word()}.example.com",
    "uri": lambda: f"https://{words.word()}.example.com/{words.word()}",
    "uuid": lambda: str(uuid.UUID(words.hexadecimal(32), version=4)),
    "ipv4": lambda: ".".join(str(words.integer(1, 254)) for _ in range(4)),
    "ipv6": lambda: ":".join(words.hexadecimal(4) for _ in range(8)),
}


def _string(schema: dict[str, Any]) -> str:
    if (form := schema.get("format")) in _FORMATS:
        return _FORMATS[form]()
    made = f"{words.words(2)} {words.pick(words.FOREIGN + words.ESCAPED)}"
    while len(made) < schema.get("minLength", 0):
        made += " " + words.word()
    return made[: schema.get("maxLength")]
