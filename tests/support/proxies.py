"""nginx and HAProxy with the configurations of deploy/proxy: their addresses and certificates changed, nothing else."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.cli.toolchain.reaper import Reaper
from support import programs
from support.deployment import DEPLOY

# What the distribution's own nginx.conf has around conf.d/*.conf.
_NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/kontract.conf;
}}
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for the name in the configurations that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api.example.com")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs: ``port`` is where it speaks TLS, ``log`` the file of requests that it writes."""

    port: int
    log: Path


@contextmanager
def proxy(name: str, nodes: Sequence[int], reaper: Reaper) -> Iterator[Proxy]:
    """Run "nginx" or "haproxy" in front of three ports of this machine.

    The test has to need that program.
    """
    program = programs.program(name)
    folder = Path(tempfile.mkdtemp(prefix=f"kontract-{name}-"))
    folder.chmod(0o755)  # nginx's workers are another user
    reaper.watch_folder(folder)
    plain, port = free_port(), free_port()
    public, private = certificate(folder)
    if name == "nginx":
        text = (DEPLOY / "proxy" / "nginx.conf").read_text()
        text = _counted(text, "listen 443 ", f"listen 127.0.0.1:{port} ")
        text = _counted(text, "listen 80;", f"listen 127.0.0.1:{plain};")
        text = _counted(text, "/etc/ssl/certs/api.example.com.pem", str(public))
        text = _counted(text, "/etc/ssl/private/api.example.com.key", str(private))
        assert text.count("access_log ") == text.count("/var/log/nginx/kontract.log kontract;") == 2
        text = text.replace("/var/log/nginx/kontract.log", str(folder / "access"))
        (folder / "kontract.conf").write_text(_to_nodes(text, nodes))
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
        check, run = [program, "-t", "-c", folder / "nginx.conf"], [program, "-c", folder / "nginx.conf"]
    else:
        (folder / "both.pem").write_bytes(public.read_bytes() + private.read_bytes())
        text = (DEPLOY / "proxy" / "haproxy.cfg").read_text()
        text = _counted(text, "log /dev/log local0", "log stdout format raw local0")
        text = _counted(text, "bind :443 ", f"bind 127.0.0.1:{port} ")
        text = _counted(text, "bind :80\n", f"bind 127.0.0.1:{plain}\n")
        text = _counted(text, "/etc/haproxy/certs/api.example.com.pem", str(folder / "both.pem"))
        (folder / "haproxy.cfg").write_text(_to_nodes(text, nodes))
        check, run = [program, "-c", "-f", folder / "haproxy.cfg"], [program, "-db", "-f", folder / "haproxy.cfg"]
    checked = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(run, stdout=out, stderr=out, start_new_session=True)
    reaper.watch_group(process.pid)
    try:
        wait_until(lambda: process.poll() is not None or is_listening(port), 60)
        assert process.poll() is None, (folder / "out").read_text()
        yield Proxy(port, folder / ("access" if name == "nginx" else "out"))
    finally:
        process.terminate()
        process.wait(60)
        reaper.forget_group(process.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _counted(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _to_nodes(text: str, nodes: Sequence[int]) -> str:
    waiting = list(nodes)
    changed = re.sub(r"(server .*?)10\.0\.0\.\d+:\d+", lambda found: f"{found[1]}127.0.0.1:{waiting.pop(0)}", text)
    assert not waiting
    return changed


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
