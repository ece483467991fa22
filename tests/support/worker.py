"""The Worker in workerd, as `kontract dev` runs it, on ports and folders of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kontract.cli.toolchain import dev_vars, setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.processes import free_port
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer


@contextmanager
def running_worker(
    checkout: Checkout, database_url: str, folder: Path, reaper: Reaper, more_vars: str = ""
) -> Iterator[DevServer]:
    """A DevServer that answers, with a secret of its own; stopped at the end, whatever happened to it meanwhile.

    `more_vars` are further lines for its .dev.vars.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secrets = folder / "dev.vars"
    dev_vars.write(secrets)
    with secrets.open("a") as file:
        file.write(more_vars)
    server = DevServer(
        checkout,
        setup.prepare(checkout),
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
