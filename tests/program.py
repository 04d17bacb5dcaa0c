"""Small programs in processes of their own, for what happens to a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.provider import Provider

_HEAD = """
import os, sys, time
import escapement, openai

def connect():
    global client
    client = openai.OpenAI(api_key="sk-test-0123456789abcdefghij", base_url=sys.argv[1] + "/v1")

connect()
os.register_at_fork(after_in_child=connect)  # two processes on one connection would read each other's answers

def ask(text, model="gpt-4o"):
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content

"""


def arguments(program: str, provider: Provider) -> list[str]:
    """The command that runs `program`, with `ask` and `client` ready."""
    return [sys.executable, "-c", _HEAD + textwrap.dedent(program), provider.base_url]


def run_program(program: str, provider: Provider) -> subprocess.CompletedProcess[str]:
    """Run it to its end in the current directory."""
    return subprocess.run(arguments(program, provider), capture_output=True, text=True, timeout=60, check=False)
