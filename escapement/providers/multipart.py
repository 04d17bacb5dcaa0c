"""Forms with files in them (RFC 7578): what their fields say."""

from __future__ import annotations

import re
from typing import Any

_PARAMETER = re.compile(rb'\b(name|filename)="([^"]*)"')


def boundary(content_type: str) -> bytes:
    """The boundary between the parts of a body; empty for one that is no form."""
    found = re.match(r'multipart/.*boundary="?([^";]+)', content_type)
    return found.group(1).encode() if found is not None else b""


def fields(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a form, in order: texts as they are, a file as `[its name]`. Empty for a body that is no form."""
    between = boundary(content_type)
    found: dict[str, Any] = {}
    for part in body.split(b"--" + between)[1:-1] if between else ():
        head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        about = {key: value.decode("utf-8", "replace") for key, value in _PARAMETER.findall(head)}
        name = about.get(b"name", "")
        value = f"[{about[b'filename']}]" if b"filename" in about else content.decode("utf-8", "replace")
        found[name] = f"{found[name]} {value}" if name in found else value
    return found
