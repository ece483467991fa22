"""The Worker's main module: it converts and delegates. workerd finds the entrypoint and the object class here."""

from workers import WorkerEntrypoint

from kontract.cloudflare.http import serve
from kontract.gateway.app import Gateway
from kontract.gateway.routes import Registry
from routes import BROKEN, ROUTES, TABLES
from session_do import KontractSessionDO

__all__ = ["Default", "KontractSessionDO", "on_fetch"]

GATEWAY = Gateway(Registry(ROUTES, TABLES), BROKEN)


async def on_fetch(request, env, ctx):
    """Answer one request."""
    return await serve(GATEWAY, request, env, ctx)


class Default(WorkerEntrypoint):
    """The entrypoint that workerd calls."""

    async def fetch(self, request):
        return await on_fetch(request, self.env, self.ctx)
