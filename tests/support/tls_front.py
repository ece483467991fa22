"""TLS in front of a PostgreSQL that has none (the embedded one): what a client asks for is seen, the rest goes through.

The certificate is for `localhost` and signs itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)  # PostgreSQL documentation, "Message Formats"


class TlsFront:
    """`port` is where it listens; `encrypted` says of each connection that was served whether TLS was used."""

    def __init__(self, behind: int, certificate: Path, key: Path) -> None:
        self.port = 0
        self.certificate = certificate
        self.encrypted: list[bool] = []
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(8)
            encrypted = first == SSL_REQUEST
            if encrypted:
                writer.write(b"S")
                await writer.start_tls(self._context)
                first = await reader.readexactly(8)
            self.encrypted.append(encrypted)
            there, back = await asyncio.open_connection("127.0.0.1", self._behind)
            back.write(first)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (OSError, ssl.SSLError):
        pass
    finally:
        writer.close()


@contextmanager
def tls_front(behind: int, folder: Path) -> Iterator[TlsFront]:
    """Run one in front of the port of a PostgreSQL, with the certificate of a folder (see `certificate`)."""
    front = TlsFront(behind, *certificate(folder))
    ready = threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stop = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stop))
        await front.serve(ready, stop)

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="tls-front")
    thread.start()
    assert ready.wait(30)
    try:
        yield front
    finally:
        [(loop, stop)] = ends
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def certificate(folder: Path) -> tuple[Path, Path]:
    """The certificate of a folder and its key; made if there is none."""
    public, private = folder / "server.crt", folder / "server.key"
    if public.exists():
        return public, private
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private
