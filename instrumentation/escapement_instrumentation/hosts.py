"""Hosts that are known to be model APIs, for where a host is all there is to go by: no path has been asked for yet."""

from __future__ import annotations

import re

_KNOWN = re.compile(
    r"(?:^|\.)(?:openai\.com|openai\.azure\.com|services\.ai\.azure\.com|cognitiveservices\.azure\.com|anthropic\.com"
    r"|bedrock-runtime(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com|generativelanguage\.googleapis\.com"
    r"|aiplatform\.googleapis\.com|api\.x\.ai|groq\.com|mistral\.ai|deepseek\.com|openrouter\.ai|together\.xyz"
    r"|dashscope(?:-intl)?\.aliyuncs\.com)$"
)


def is_known(host: str) -> bool:
    """Whether a host is known to be that of a model API."""
    return _KNOWN.search(host) is not None
