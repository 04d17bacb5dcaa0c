"""Settings: the order of places, what each takes, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.words.config import SETTINGS, resolve, variable

OTHER: dict[str, Any] = {
    "storage_dir": "elsewhere",
    "enabled": False,
    "strict_replay": True,
    "normalize": ["timestamp", "messages[*].content: uuid", "/run-[0-9]+/"],
    "ignore": ["user", "metadata.run_id"],
    "timing": "recorded",
    "loop_detection_enabled": False,
    "max_identical_calls": 5,
    "on_guard": "warn,cycle=kill",
    "exempt_tools": ["wait", "*_status"],
    "max_calls": 100,
    "max_tokens": 1_000_000,
    "max_cost": 2.5,
    "max_duration": "30m",
    "budget_file": "budget",
    "redact": False,
    "durability": "fsync",
    "sealing": "manual",
    "retention_age": "30d",
    "retention_size": "1.5 GB",
    "prices_file": "own.toml",
    "otlp_endpoint": "http://localhost:4318",
    "instrumentors": ["openai"],
    "keep_spans": True,
}


def values(settings: object) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in SETTINGS}


def parsed(other: dict[str, Any]) -> dict[str, Any]:
    return {name: SETTINGS[name].parse(value) for name, value in other.items()}


def as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESCAPEMENT_SEALING")  # as the tests have it
    settings = resolve()
    assert values(settings) == {
        "storage_dir": Path(".escapement"),
        "enabled": True,
        "strict_replay": False,
        "normalize": (),
        "ignore": (),
        "timing": "instant",
        "loop_detection_enabled": True,
        "max_identical_calls": 10,
        "on_guard": None,
        "exempt_tools": (),
        "max_calls": None,
        "max_tokens": None,
        "max_cost": None,
        "max_duration": None,
        "budget_file": None,
        "redact": True,
        "durability": "process",
        "sealing": "background",
        "retention_age": None,
        "retention_size": None,
        "prices_file": None,
        "otlp_endpoint": None,
        "instrumentors": (),
        "keep_spans": False,
    }
    assert set(settings.origins.values()) == {"default"}


def test_every_setting_has_each_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert OTHER.keys() == SETTINGS.keys() == escapement.EscapementConfig(**OTHER).given().keys()
    expected = parsed(OTHER)
    assert values(resolve(None, OTHER)) == expected
    assert values(resolve(escapement.EscapementConfig(**OTHER))) == expected
    for name, value in OTHER.items():
        monkeypatch.setenv(variable(name), as_text(value))
    assert values(resolve()) == expected
    for name in OTHER:
        monkeypatch.delenv(variable(name))
    lines = "\n".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in OTHER.items()
    )
    (tmp_path / "pyproject.toml").write_text(f"[tool.escapement]\n{lines}\n".replace("'", '"'))
    assert values(resolve()) == {
        **expected,
        "storage_dir": tmp_path / "elsewhere",
        "prices_file": tmp_path / "own.toml",
        "budget_file": tmp_path / "budget",
    }
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert values(resolve()) == {
        **expected,
        "storage_dir": tmp_path / "elsewhere",
        "prices_file": tmp_path / "own.toml",
        "budget_file": tmp_path / "budget",
    }


def test_the_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.escapement]\nmax_identical_calls = 2\n")
    assert (resolve().max_identical_calls, resolve().origins["max_identical_calls"]) == (
        2,
        str(tmp_path / "pyproject.toml"),
    )
    monkeypatch.setenv("ESCAPEMENT_MAX_IDENTICAL_CALLS", "3")
    assert (resolve().max_identical_calls, resolve().origins["max_identical_calls"]) == (
        3,
        "ESCAPEMENT_MAX_IDENTICAL_CALLS",
    )
    config = escapement.EscapementConfig(max_identical_calls=4)
    assert (resolve(config).max_identical_calls, resolve(config).origins["max_identical_calls"]) == (4, "config")
    both = resolve(config, {"max_identical_calls": 5})
    assert (both.max_identical_calls, both.origins["max_identical_calls"]) == (5, "argument")
    assert resolve(config).strict_replay is False, "what a config does not set is looked for further"


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("enabled", "perhaps", "true or false"),
        ("strict_replay", 2, "true or false"),
        ("max_identical_calls", "many", "a whole number from 2 up"),
        ("max_identical_calls", 1, "a whole number from 2 up"),
        ("max_identical_calls", 2.5, "a whole number from 2 up"),
        ("max_identical_calls", True, "a whole number from 2 up"),
        ("storage_dir", "  ", "a directory"),
        ("storage_dir", 7, "a directory"),
        ("max_calls", 0, "a whole number from 1 up"),
        ("max_cost", 0, "US dollars, more than 0"),
        ("max_cost", "free", "US dollars, more than 0"),
        ("max_cost", True, "US dollars, more than 0"),
        ("max_duration", "30", r"an amount with a unit \(s, m, h, d\), such as '30m'"),
        ("max_duration", 30, r"an amount with a unit \(s, m, h, d\), such as '30m'"),
        ("durability", "always", "'process' or 'fsync'"),
        ("prices_file", "  ", "a file"),
        ("prices_file", 7, "a file"),
        ("instrumentors", [1], "names, as a list or separated by commas"),
    ],
)
def test_a_wrong_value_names_the_setting_and_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, takes: str
) -> None:
    message = f"^{name} takes {takes}, not "
    for use in (lambda: escapement.init(**{name: value}), lambda: escapement.EscapementConfig(**{name: value})):
        with pytest.raises(escapement.ConfigError, match=message):
            use()
    if isinstance(value, str):
        monkeypatch.setenv(variable(name), value)
        with pytest.raises(escapement.ConfigError, match=rf"{message}.*{variable(name)}"):
            escapement.init()
    assert escapement.current() is None


def test_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(escapement.ConfigError, match="'strict_reply'; did you mean 'strict_replay'"):
        escapement.init(strict_reply=True)
    with pytest.raises(escapement.ConfigError, match="'colour'; known: storage_dir"):
        escapement.replay("@last", colour="red")
    (tmp_path / "pyproject.toml").write_text("[tool.escapement]\nstorage = 'x'\n")
    with pytest.raises(escapement.ConfigError, match=r"pyproject\.toml names a setting that does not exist: 'storage'"):
        escapement.init()


@pytest.mark.parametrize("text", ["[tool.escapement", "[tool]\nescapement = 7", "\udcff"])
def test_a_pyproject_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(escapement.ConfigError, match=r"pyproject\.toml"):
        escapement.init()


@pytest.mark.parametrize(
    "arguments",
    [
        {"tags": "production"},
        {"tags": [1]},
        {"metadata": 7},
        {"metadata": {"x": object()}},
        {"metadata": {"x": float("nan")}},
        {"config": {}},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(escapement.ConfigError, match=r"tags takes|metadata takes|config takes"):
        escapement.init(**arguments)
    assert escapement.current() is None


def test_an_instrumentor_that_is_not_installed() -> None:
    with pytest.raises(
        escapement.ConfigError, match=r"'nothing'.*no such instrumentor is installed \(installed: .*openai"
    ):
        escapement.init(instrumentors=["nothing"])
    assert escapement.current() is None
