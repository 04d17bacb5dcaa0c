"""What secrets look like: the shapes that providers give their keys, and names behind which a secret stands.

Searching is in every call, so it is cheap where there is nothing: a sign that begins with plain text (which `re` skips
to, faster than `in` does) says whether the shapes of its group are looked for at all. Every sign is a pass over the
text, so shapes that share a character which is rare elsewhere are one group. What a pattern may have to give back is
bounded, so that no text makes it slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What is replaced: a match of `pattern`, or (where it has groups) of the group that took part."""

    pattern: re.Pattern[bytes]
    placeholder: bytes

    def spans(self, text: bytes) -> list[tuple[int, int]]:
        return [match.span(match.lastindex or 0) for match in self.pattern.finditer(text)]


class Group(NamedTuple):
    """Shapes that are there only where `sign`, a search, finds something."""

    sign: Callable[[bytes], Any]
    shapes: tuple[Shape, ...]


def _group(*shapes: tuple[str, str], sign: str = "") -> Group:
    """A group of kinds and their patterns; a single one is its own sign."""
    made = tuple(Shape(re.compile(shape.encode()), f"[REDACTED:{kind}]".encode()) for kind, shape in shapes)
    return Group(re.compile((sign or shapes[0][1]).encode()).search, made)


def _word(start: str, rest: str, word: str = "A-Za-z0-9_") -> str:
    """A shape that does not start inside a word: "task-…" holds "sk-…". An escape (`\\n`, `%3D`) is no part of one."""
    before = (rf"(?<![{word}]", r"(?<=\\[nrtbf]", r"(?<=\\u[0-9A-Fa-f]{4}", r"(?<=%[0-9A-Fa-f]{2}")
    return f"{start}(?:{'|'.join(f'{look}{start})' for look in before)}){rest}"


_SPACE = r"(?:\s|\\{1,8}[nrt])"  # also as it stands in a JSON string, or in JSON inside one
_BASE64 = r"(?:[A-Za-z0-9+/=]|\\{1,4}/)"
_SAFE = r"[A-Za-z0-9_\-]"

KEYS = (
    _group(
        ("aws-token", _word("IQoJb3JpZ2lu", rf"(?:{_BASE64}|[%_\-]){{40,}}")),
        ("aws-token", _word("F[wQ]oGZXIvYXdz", rf"(?:{_BASE64}|[%_\-]){{40,}}")),
        sign=r"Z(?:2lu(?<=IQoJb3JpZ2lu)|XIvYXdz(?<=F[wQ]oGZXIvYXdz))",
    ),
    _group(
        (
            "private-key",
            r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
            rf"(?:{_SPACE}{{1,8}}[A-Za-z\-]{{2,24}}: [^\r\n\\]{{0,80}}){{0,4}}"
            # The end may be missing; only before it a line may be short.
            rf"(?:{_SPACE}{{1,8}}{_BASE64}{{16,}})+"
            rf"(?:(?:{_SPACE}{{1,8}}{_BASE64}{{1,16}})?{_SPACE}{{0,8}}-----END [A-Z ]{{0,24}}PRIVATE KEY"
            r"(?: BLOCK)?-----)?",
        ),
        ("anthropic-key", _word("sk-ant-", rf"{_SAFE}{{20,}}")),
        # Three digits, or a long piece without a hyphen: "sk-learn-contributors-guide" has neither.
        (
            "openai-key",
            _word(
                "sk-",
                r"(?=(?:[A-Za-z_\-]{0,64}[0-9]){3}|(?:[A-Za-z0-9]{1,12}-){0,3}[A-Za-z0-9]{20})"
                rf"{_SAFE}{{20,}}",
            ),
        ),
        ("openai-key", _word("sess-", r"[A-Za-z0-9]{40,}")),
        ("google-secret", _word("GOCSPX-", rf"{_SAFE}{{20,}}")),
        ("slack-token", _word("x(?:ox[abeoprs]|app)-", r"[A-Za-z0-9\-]{10,}")),
        sign=rf"-(?:----BEGIN |(?<=[skXpaboer]-)(?:(?:(?<=sk-)|(?<=sess-)|(?<=GOCSPX-)){_SAFE}{{20}}"
        rf"|(?:(?<=xox[abeoprs]-)|(?<=xapp-)){_SAFE}{{10}}))",
    ),
    _group(
        ("google-key", _word("AIza", rf"{_SAFE}{{35,}}")),
        ("google-key", _word(r"AQ\.", rf"{_SAFE}{{40,}}")),
        ("aws-key", _word("A[KS]IA", r"[A-Z0-9]{16}\b")),
        ("telegram-token", r":AA(?<=[0-9]{8}:AA)([A-Za-z0-9_\-]{33,})"),
        sign=rf"A(?:Iza|[KS]IA|Q\.|A(?<=[0-9]:AA)){_SAFE}{{16}}",
    ),
    _group(
        ("google-token", _word(r"ya29\.", r"[A-Za-z0-9_\-.]{20,}")),
        ("slack-webhook", r"hooks\.slack\.com\\{0,4}/[a-z]{5,12}\\{0,4}/((?:[A-Za-z0-9_+\-]|\\{0,4}/){20,})"),
        # Not behind a hyphen either: "-eyJ-eyJ-eyJ…" would be searched to its end from each.
        ("jwt", _word("eyJ", rf"{_SAFE}{{8,}}\.eyJ{_SAFE}{{8,}}\.{_SAFE}{{8,}}", r"A-Za-z0-9_\-")),
        sign=r"\.(?:eyJ|slack\.com|(?<=ya29\.))",
    ),
    _group(
        ("github-token", _word("gh[pousr]_", r"[A-Za-z0-9_]{36,}")),
        ("github-token", _word("github_pat_", r"[A-Za-z0-9_]{22,}")),
        ("huggingface-token", _word("hf_", r"[A-Za-z0-9]{30,}")),
        ("groq-key", _word("gsk_", r"[A-Za-z0-9]{40,}")),
        sign=r"_(?:(?<=gh[pousr]_)|(?<=github_pat_)|(?<=hf_)|(?<=gsk_))[A-Za-z0-9_]{20}",
    ),
    _group(("password", r"://[^\s/?#@\"'<>\\:\[\]]{0,128}:(?!\[REDACTED)([^\s/?#@\"'<>\\]{1,256})@")),
)


def _named(end: str, *names: str) -> str:
    """What stands behind one of `names`, which all end in `end`: text with a digit in it that is no call. `.` in a
    name is any character. In the query of a URL the last word of a name will do."""
    words = {name.rpartition(".")[2] for name in names if "." in name}
    names = (*names, *(f"{mark}{word}" for word in words for mark in ("[?&;]", "u0026", "%26")))
    stands = r"(?:[\s\"'\\]|%2[02]){0,20}(?:[=:>]|%3[ad])(?:[\s\"'\\=>]|%2[02]){0,20}"
    value = r"(?=[a-z+/=_%\-]{0,64}[0-9])((?:[a-z0-9+/=_\-]|\\{1,4}/|%2[bf]|%3d){20,}+)(?![(\[.])"
    return rf"{end}(?:{'|'.join(f'(?<={name})' for name in names)}){stands}{value}"


_TOKEN = r"(?=[a-z._~+/=\-]{0,64}[0-9])[a-z0-9._~+/=\-]{16,}"

NAMED = (
    _group(("key", _named("key", "access.key", "accesskey", "account.key", "accountkey", "api.key", "apikey"))),
    _group(("token", _named("ken", "access.token", "auth.token", "refresh.token", "security.token", "session.token"))),
    _group(("secret", _named("cret", "app.secret", "client.secret", "clientsecret", "consumer.secret"))),
    _group(("signature", r"sig(?:nature)?(?:=|%3d)(?=[a-z+/=_%\-]{0,64}[0-9])((?:[a-z0-9+/=_\-]|%2[bf]|%3d){32,})")),
    _group(("authorization", rf"bearer(?:\s|%20|\+){{1,4}}({_TOKEN})")),
    _group(
        (
            "authorization",
            r"authorization[\s\"'\\:=>]{1,32}"
            rf"(?:basic\s{{1,4}}([a-z0-9+/=]{{8,}})|(?:[a-z\-]{{3,16}}[\s:=]{{1,4}})?({_TOKEN}))",
        )
    ),
)
"""Secrets that only the name before them tells; searched for in the text in lower case."""
