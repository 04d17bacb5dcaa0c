"""A local stand-in for the model APIs that never gives the same answer twice.

with Provider() as provider:
    client = OpenAI(base_url=f"{provider.base_url}/v1", api_key="any")

A model's name chooses a fault (see `faults`); `echo` answers with the user's last text, and a name
with `gzip` in it compresses plain answers.
"""

from .exchange import ReceivedRequest
from .server import Provider

__all__ = ["Provider", "ReceivedRequest"]
