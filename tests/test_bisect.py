"""`escapement bisect`: which commit made a program do something else than its trace says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from escapement.engine import revision
from tests.provider import Provider

AGENT = """
import os, openai
from prompt import PROMPT

client = openai.OpenAI(api_key="sk-test-0123456789abcdefghij", base_url=os.environ["PROVIDER"] + "/v1")
for text in ("one", PROMPT, "three"):
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])
"""


def git(*words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


def escapement_(provider: Provider, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PROVIDER": provider.base_url}
    return subprocess.run(
        [sys.executable, "-m", "escapement", *words],
        capture_output=True, text=True, env=environment, check=False, timeout=300,
    )  # fmt: skip


def commit(title: str, prompt: str, agent: str = AGENT) -> str:
    Path("agent.py").write_text(agent)
    Path("prompt.py").write_text(prompt)
    git("add", "agent.py", "prompt.py")
    git("commit", "--quiet", "--allow-empty", "-m", title)
    return git("rev-parse", "HEAD")


@pytest.fixture
def commits(provider: Provider) -> list[str]:
    """Eight commits. The trace is of the first one, and the sixth one changes a prompt; the fourth cannot be run."""
    git("init", "--quiet")
    made = [commit("first", "PROMPT = 'two'")]
    recorded = escapement_(provider, "run", "--name", "agent", "--", sys.executable, "agent.py")
    assert recorded.returncode == 0, recorded.stderr
    made += [commit(f"harmless {number}", f"PROMPT = 'two'  # {number}") for number in (2, 3)]
    made.append(commit("broken", "PROMPT = "))
    made.append(commit("mended", "PROMPT = 'two'"))
    made.append(commit("another prompt", "PROMPT = 'too'"))
    made += [commit(f"harmless {number}", f"PROMPT = 'too'  # {number}") for number in (7, 8)]
    return made


COMMAND = ["--", sys.executable, "agent.py"]


def test_the_commit_that_diverges_first_is_found(provider: Provider, commits: list[str]) -> None:
    before = provider.count
    done = escapement_(provider, "bisect", "@last", *COMMAND)
    assert done.returncode == 0, done.stderr
    title, empty, *reason = done.stdout.splitlines()
    assert (title, empty) == (f"{git('rev-parse', '--short', commits[5])} another prompt", "")
    assert reason[0].startswith("[no_match] trace tr_")
    assert [line[:7] for line in reason if line.startswith(("  - ", "  + "))] == ["  - two", "  + too"]
    assert "first: good, all 3 steps as recorded" in done.stderr
    # Everything is as it was, and nothing was sent.
    assert (git("rev-parse", "--abbrev-ref", "HEAD"), git("status", "--porcelain", "-uno")) == ("main", "")
    assert provider.count == before == 3
    assert subprocess.run(["git", "bisect", "log"], capture_output=True, check=False).returncode != 0


def test_a_good_and_a_bad_trace_name_their_commits(provider: Provider, commits: list[str]) -> None:
    good = escapement_(provider, "list", "-q").stdout.strip()
    escapement_(provider, "run", "--name", "bad", *COMMAND)
    bad = escapement_(provider, "list", "-q", "--name", "bad").stdout.strip()
    commit("later", "PROMPT = 'three'")
    done = escapement_(provider, "bisect", good, "--bad", bad, "--json", *COMMAND)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["trace"], found["commit"]) == (good, commits[5])


def test_a_program_that_makes_fewer_calls_is_found(provider: Provider, commits: list[str]) -> None:
    git("reset", "--quiet", "--hard", commits[4])
    fewer = commit("fewer calls", "PROMPT = 'two'", AGENT.replace(', "three"', ""))
    commit("later", "PROMPT = 'two'  # later", AGENT.replace(', "three"', ""))
    done = escapement_(provider, "bisect", "@last", "--json", *COMMAND)
    found = json.loads(done.stdout)
    assert (found["commit"], found["reason"]) == (fewer, "it ended with step 2 of 3 (exit code 0)")


def test_git_bisect_run_takes_its_exit_codes(provider: Provider, commits: list[str]) -> None:
    codes = []
    for one in (commits[0], commits[3], commits[5]):
        git("checkout", "--quiet", one)
        codes.append(escapement_(provider, "bisect", "@last", "--once", *COMMAND).returncode)
    assert codes == [0, 125, 1]
    assert escapement_(provider, "bisect", "tr_ffffffffffff", "--once", *COMMAND).returncode == 128
    git("bisect", "start", commits[7], commits[0])
    run = ["bisect", "run", sys.executable, "-m", "escapement", "bisect", "@last", "--once", *COMMAND]
    os.environ["PROVIDER"] = provider.base_url
    try:
        said = git(*run)
    finally:
        del os.environ["PROVIDER"]
    assert f"{commits[5]} is the first bad commit" in said.replace("'bad'", "bad")
    git("bisect", "reset")


def test_what_bisect_refuses(provider: Provider, commits: list[str]) -> None:
    for words, message in (
        (["--good", "nowhere"], "git rev-parse"),
        (["--bad", commits[1]], f"--bad {git('rev-parse', '--short', commits[1])} harmless 2 is not bad: all 3 steps"),
        (["--good", commits[6]], "is not good: [no_match]"),
    ):
        done = escapement_(provider, "bisect", "@last", *words, *COMMAND)
        assert (done.returncode, done.stdout, message in done.stderr) == (1, "", True), done.stderr
        assert git("rev-parse", "--abbrev-ref", "HEAD") == "main"
    Path("agent.py").write_text("changed")
    dirty = escapement_(provider, "bisect", "@last", *COMMAND)
    assert (dirty.returncode, "not committed" in dirty.stderr) == (1, True)
    assert Path("agent.py").read_text() == "changed"


def test_outside_of_a_repository(provider: Provider) -> None:
    Path("agent.py").write_text(AGENT)
    Path("prompt.py").write_text("PROMPT = 'two'")
    escapement_(provider, "run", *COMMAND)
    done = escapement_(provider, "bisect", "@last", *COMMAND)
    assert (done.returncode, "not a git repository" in done.stderr) == (1, True)


def test_a_commit_is_read_from_the_files_of_git(tmp_path: Path) -> None:
    assert revision.of_directory(tmp_path) == ""
    git("init", "--quiet")
    assert revision.of_directory(tmp_path) == ""
    first = commit("first", "")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert revision.of_directory(tmp_path / "a" / "b") == first
    git("pack-refs", "--all")
    assert revision.of_directory(tmp_path) == first
    git("worktree", "add", "--quiet", "-b", "side", "elsewhere")
    assert revision.of_directory(tmp_path / "elsewhere") == first
    second = commit("second", "# more")
    assert (revision.of_directory(tmp_path), revision.of_directory(tmp_path / "elsewhere")) == (second, first)
    git("checkout", "--quiet", "--detach", first)
    assert revision.of_directory(tmp_path) == first
