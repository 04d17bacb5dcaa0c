"""Settings: what can be set, what each takes, and where a value came from.

One table (`SETTINGS`) drives everything: the keyword arguments of `init` and `replay`, `EscapementConfig`, the
environment variables and `[tool.escapement]`. Order: argument, config, environment, pyproject.toml, default.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from escapement.words import normalisers, rules
from escapement.words.errors import ConfigError
from escapement.words.rules import Action

Normalize = str | re.Pattern[str] | Callable[[Any], Any]
"""What `normalize` takes, one or several."""


class _Wrong(ValueError):
    """A value that a setting does not take; the text says what it takes."""


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
    raise _Wrong("true or false")


def _at_least(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        takes = f"a whole number from {least} up"
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _Wrong(takes)
        try:
            number = int(value)
        except ValueError:
            raise _Wrong(takes) from None
        if number < least:
            raise _Wrong(takes)
        return number

    return parse


def _path(value: object) -> Path:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.strip()):
        path = Path(os.fspath(value))
        return path.expanduser()
    raise _Wrong("a directory")


def _file(value: object) -> Path:
    try:
        return _path(value)
    except _Wrong:
        raise _Wrong("a file") from None


def _location(value: object) -> Path | str:
    if isinstance(value, str) and "://" in value:
        if re.fullmatch(r"s3a?://[a-z0-9][a-z0-9.\-]+(?:/[^?#]*)?", value.strip()):
            return value.strip()
        raise _Wrong("a directory, or s3://bucket/prefix")
    return _path(value)


_UNITS = {
    "time": {"s": 1, "m": 60, "h": 3600, "d": 86400},
    "age": {"m": 60, "h": 3600, "d": 86400, "w": 604800},
    "size": {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4},
}


def _amount(kind: str, example: str) -> Callable[[object], int]:
    """A number with a unit: seconds of a time or an age, bytes of a size."""

    def parse(value: object) -> int:
        units = _UNITS[kind]
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value.lower()) if isinstance(value, str) else None
        if found is None or found.group(2) not in units or float(found.group(1)) == 0:
            raise _Wrong(f"an amount with a unit ({', '.join(units)}), such as {example!r}")
        return int(float(found.group(1)) * units[found.group(2)])

    return parse


def _dollars(value: object) -> float:
    takes = "US dollars, more than 0"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Wrong(takes)
    try:
        dollars = float(value)
    except ValueError:
        raise _Wrong(takes) from None
    if not 0 < dollars < float("inf"):
        raise _Wrong(takes)
    return dollars


def _on_guard(value: Any) -> Mapping[str, Action]:
    """Actions by rule or group, from one for all or some by name; as text `repeated_tool=kill,budgets=kill`."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",")]
        value = {name.strip() if mark else "all": (action if mark else name).strip() for name, mark, action in pairs}
    given = dict(value) if isinstance(value, Mapping) else {"all": value}
    try:
        rules.actions(given)
    except (ValueError, TypeError) as error:
        raise _Wrong(
            f"{', '.join(map(repr, rules.ACTIONS))}, a function, or one of these by rule or group "
            f"(known: {', '.join((*rules.RULES, *rules.GROUPS))}; {error})"
        ) from None
    return given


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value.strip().lower() in words:
            return value.strip().lower()
        raise _Wrong(" or ".join(repr(word) for word in words))

    return parse


def _timing(value: object) -> str | float:
    takes = "'instant', 'recorded' or a factor of the recorded times (0.1: ten times as fast)"
    if isinstance(value, str) and value.strip().lower() in ("instant", "recorded"):
        return value.strip().lower()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Wrong(takes)
    try:
        factor = float(value)
    except ValueError:
        raise _Wrong(takes) from None
    if not 0 <= factor <= 1000:  # not a number is not, either
        raise _Wrong(takes)
    return factor


def _endpoint(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"https?://[^/?#\s@]+[^?#\s]*", value.strip()):
        return value.strip().rstrip("/")
    raise _Wrong("a URL without credentials, such as http://localhost:4318 (they go into OTEL_EXPORTER_OTLP_HEADERS)")


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise _Wrong("names, as a list or separated by commas")


def _declared(parse: Callable[[Any], Any], takes: str) -> Callable[[object], tuple[Any, ...]]:
    """Any number of values that `parse` reads: a list, one alone, or in text a JSON list or words between commas."""

    def parse_all(value: object) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = _texts(value)
        elif not isinstance(value, Sequence):
            value = [value]
        try:
            return tuple(parse(one) for one in value)
        except ValueError as error:
            raise _Wrong(f"{takes} ({error})") from None

    return parse_all


def _texts(value: str) -> list[str]:
    if value.lstrip().startswith("["):
        import json

        with suppress(ValueError):
            found = json.loads(value)
            if isinstance(found, list):
                return found
    return [part.strip() for part in value.split(",") if part.strip()]


def _field(value: object) -> normalisers.Field:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a field")
    return normalisers.parse_field(value.strip())


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its default, how a value is read, and a sentence for people."""

    default: Any
    parse: Callable[[object], Any]
    help: str


SETTINGS: Mapping[str, Setting] = {
    "storage_dir": Setting(
        Path(".escapement"), _location, "where traces are kept: a directory, or `s3://bucket/prefix`"
    ),
    "enabled": Setting(True, _boolean, "false turns every verb into a no-op"),
    "strict_replay": Setting(False, _boolean, "a request that the trace does not know raises instead of going live"),
    "normalize": Setting(
        (),
        _declared(normalisers.parse, f"{', '.join(normalisers.LOOKS)}, fields, /patterns/, or functions of the body"),
        "what of a request does not count: looks (`timestamp`), those in a field (`user: uuid`), `/patterns/`",
    ),
    "ignore": Setting((), _declared(_field, "fields such as metadata.run_id"), "fields of a request that do not count"),
    "timing": Setting(
        "instant", _timing, "when replayed answers come: `instant`, as `recorded`, or a factor of the recorded times"
    ),
    "loop_detection_enabled": Setting(True, _boolean, "false switches the rules about loops off"),
    "max_identical_calls": Setting(10, _at_least(2), "the same request this many times kills the run"),
    "on_guard": Setting(
        None,
        _on_guard,
        "what guards do: `warn`, `kill`, `off` or a function; also by rule: `repeated_tool=kill,budgets=kill`",
    ),
    "exempt_tools": Setting((), _names, "tools that may be called as often as they like, such as `wait_for_*`"),
    "max_calls": Setting(None, _at_least(1), "calls that a run may make"),
    "max_tokens": Setting(None, _at_least(1), "tokens that a run may use"),
    "max_cost": Setting(None, _dollars, "US dollars that a run may cost"),
    "max_duration": Setting(None, _amount("time", "30m"), "time that a run may take, such as `30m`"),
    "budget_file": Setting(None, _file, "a file in which processes that share these budgets count together"),
    "redact": Setting(True, _boolean, "replace keys and tokens of known shapes before anything is hashed or written"),
    "durability": Setting(
        "process", _one_of("process", "fsync"), "`process` survives a kill, `fsync` a power failure too"
    ),
    "sealing": Setting(
        "background", _one_of("background", "manual"), "`manual`: only `escapement store compact` seals journals"
    ),
    "retention_age": Setting(None, _amount("age", "30d"), "delete traces older than this, such as `30d`"),
    "retention_size": Setting(None, _amount("size", "2gb"), "delete the oldest traces above this, such as `2gb`"),
    "prices_file": Setting(None, _file, "a TOML file with prices of your own, which win over the list prices"),
    "otlp_endpoint": Setting(
        None, _endpoint, "an OpenTelemetry collector to send slim spans and metrics to, such as `http://localhost:4318`"
    ),
    "instrumentors": Setting((), _names, "other OpenTelemetry instrumentors to switch on beside ours"),
    "keep_spans": Setting(False, _boolean, "keep the spans of the application's own provider in the trace, too"),
}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"ESCAPEMENT_{name.upper()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EscapementConfig:
    """Settings to hand to `init` or `replay`. None means: not set here, look further.

    Raises ConfigError at once when a value is not one that its setting takes.
    """

    storage_dir: str | os.PathLike[str] | None = None
    enabled: bool | None = None
    strict_replay: bool | None = None
    normalize: Normalize | Sequence[Normalize] | None = None
    ignore: str | Sequence[str] | None = None
    timing: Literal["instant", "recorded"] | float | None = None
    loop_detection_enabled: bool | None = None
    max_identical_calls: int | None = None
    on_guard: Action | Mapping[str, Action] | None = None
    exempt_tools: Sequence[str] | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_duration: str | None = None
    budget_file: str | os.PathLike[str] | None = None
    redact: bool | None = None
    durability: Literal["process", "fsync"] | None = None
    sealing: Literal["background", "manual"] | None = None
    retention_age: str | None = None
    retention_size: str | None = None
    prices_file: str | os.PathLike[str] | None = None
    otlp_endpoint: str | None = None
    instrumentors: Sequence[str] | None = None
    keep_spans: bool | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            _parse(name, value, "EscapementConfig")

    def given(self) -> dict[str, Any]:
        """The settings that were set here."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings with a value each, and `origins`: where each value came from."""

    storage_dir: Path | str
    enabled: bool
    strict_replay: bool
    normalize: tuple[normalisers.Normaliser, ...]
    ignore: tuple[normalisers.Field, ...]
    timing: str | float
    loop_detection_enabled: bool
    max_identical_calls: int
    on_guard: Mapping[str, Action] | None
    exempt_tools: tuple[str, ...]
    max_calls: int | None
    max_tokens: int | None
    max_cost: float | None
    max_duration: int | None
    budget_file: Path | None
    redact: bool
    durability: str
    sealing: str
    retention_age: int | None
    retention_size: int | None
    prices_file: Path | None
    otlp_endpoint: str | None
    instrumentors: tuple[str, ...]
    keep_spans: bool
    origins: Mapping[str, str]

    @property
    def pace(self) -> float:
        """How long replayed answers take: a factor of what they took when they were recorded."""
        return {"instant": 0.0, "recorded": 1.0}[self.timing] if isinstance(self.timing, str) else self.timing


def resolve(config: EscapementConfig | None = None, arguments: Mapping[str, Any] | None = None) -> Settings:
    """Every setting, from the first place that gives it one. Raises ConfigError, naming the setting and its place."""
    if config is not None and not isinstance(config, EscapementConfig):
        raise ConfigError(f"config takes an EscapementConfig, not {type(config).__name__}")
    arguments = arguments or {}
    for name in arguments:
        _check_known(name, "an argument")
    given = config.given() if config is not None else {}
    project, project_file = _project()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        if arguments.get(name) is not None:
            values[name], origins[name] = _parse(name, arguments[name], "argument"), "argument"
        elif name in given:
            values[name], origins[name] = _parse(name, given[name], "config"), "config"
        elif os.environ.get(variable(name), "") != "":
            values[name] = _parse(name, os.environ[variable(name)], variable(name))
            origins[name] = variable(name)
        elif name in project:
            value = _parse(name, project[name], str(project_file))
            values[name] = project_file.parent / value if isinstance(value, Path) else value
            origins[name] = str(project_file)
        else:
            values[name], origins[name] = setting.default, "default"
    return Settings(**values, origins=origins)


def _parse(name: str, value: object, place: str) -> Any:
    try:
        return SETTINGS[name].parse(value)
    except _Wrong as wrong:
        raise ConfigError(f"{name} takes {wrong}, not {value!r} (set by {place})") from None


def _check_known(name: str, place: str) -> None:
    if name in SETTINGS:
        return
    import difflib

    near = difflib.get_close_matches(name, SETTINGS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SETTINGS)}"
    raise ConfigError(f"{place} names a setting that does not exist: {name!r}; {hint}")


def _project() -> tuple[dict[str, Any], Path]:
    """`[tool.escapement]` of the nearest pyproject.toml at or above the working directory."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return {}, Path()
    file = next((file for folder in (here, *here.parents) if _is_file(file := folder / "pyproject.toml")), None)
    if file is None:
        return {}, Path()
    import tomllib

    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("escapement", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: [tool.escapement] is not a table")
    for name in table:
        _check_known(name, f"[tool.escapement] of {file}")
    return table, file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be looked into
        return False
