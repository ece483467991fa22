"""The Worker in workerd, as `kontract dev` runs it, with its own ports and folders."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kontract.cli.toolchain import dev_vars, setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.processes import free_port
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from kontract.client import Client
from kontract.core.model.perms import ALL
from kontract.server import env_file
from kontract.testing import sessions


@contextmanager
def running_worker(
    checkout: Checkout, database_url: str, folder: Path, reaper: Reaper, more_vars: str = ""
) -> Iterator[DevServer]:
    """Yield a running DevServer with its own secret; it is stopped at the end in any case.

    ``more_vars`` are further lines for its .dev.vars.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secrets = folder / "dev.vars"
    dev_vars.write(secrets)
    with secrets.open("a") as file:
        file.write(more_vars)
    server = DevServer(
        checkout,
        setup.prepare(checkout, run=False),  # `make test` has taken the snapshot; for one server it is not worth it
        free_port(),
        database_url,
        persist_to=folder / "durable-objects",
        state=folder,
        env_file=secrets,
        on_spawn=reaper.watch_group,
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Worker:
    """The application in the real runtime. Its data stays from test to test, so tests use their own names."""

    def __init__(self, server: DevServer, owner: str) -> None:
        """Use a running server; ``owner``: the default tenant of callers."""
        assert server.env_file is not None
        self.server = server
        self.owner = owner
        self._secret = env_file.parse(server.env_file.read_text(encoding="utf-8"))["KONTRACT_SECRET"]

    @classmethod
    @contextmanager
    def started(
        cls,
        checkout: Checkout,
        database_url: str,
        folder: Path,
        reaper: Reaper,
        environment: Mapping[str, str],
        owner: str,
    ) -> Iterator[Worker]:
        """Start a Worker with the variables of ``environment`` and its own secret; it is stopped at the end."""
        variables = (
            dev_vars.line(name, value, expanded=True)
            for name, value in environment.items()
            if name != "KONTRACT_SECRET"
        )
        with running_worker(checkout, database_url, folder, reaper, "".join(variables)) as server:
            yield cls(server, owner)

    @property
    def url(self) -> str:
        """The URL of the Worker."""
        return self.server.url

    def log_text(self) -> str:
        """Return what wrangler and the Worker have printed."""
        return self.server.log_text()

    def as_user(
        self,
        user: str = "developer",
        *,
        groups: Iterable[str] = (),
        owner: str | None = None,
        perm: int = ALL,
        anonymous: bool = False,
    ) -> Client:
        """Return a caller, to be used in ``async with``; as :meth:`kontract.testing.app.App.as_user`."""
        now = time.time_ns() // 1_000_000
        made = sessions.token(
            self._secret, now, user, owner=owner or self.owner, groups=groups, perm=perm, anonymous=anonymous
        )
        return Client(self.url, made)

    async def anonymous(self) -> Client:
        """Return a caller with a new anonymous session, to be used in ``async with``."""
        return await Client.anonymous(self.url)
