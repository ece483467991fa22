"""The Python client: ``async with Client(url, token=...) as api: await api.create_task("x")``.

Manual: docs/reference/python-client.md.
"""

from kontract.client.client import Client, RemoteFunction
from kontract.client.errors import (
    ClientError,
    ConnectionFailedError,
    InvalidAnswerError,
    RedirectedError,
    ServerKeyError,
    UnknownCodeError,
    UnsealedAnswerError,
)
from kontract.client.retries import Retries
from kontract.client.session import Me, Tokens
from kontract.client.stream import Event, Stream
from kontract.client.transport import Answer, Transport

__all__ = [
    "Answer",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "Event",
    "InvalidAnswerError",
    "Me",
    "RedirectedError",
    "RemoteFunction",
    "Retries",
    "ServerKeyError",
    "Stream",
    "Tokens",
    "Transport",
    "UnknownCodeError",
    "UnsealedAnswerError",
]
