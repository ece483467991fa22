"""The Durable Object class that wrangler.toml names. It converts and delegates."""

from workers import DurableObject

from kontract.cloudflare.durable_object import SessionObject


class KontractSessionDO(DurableObject):
    """One per owner: orders its transactions."""

    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self._session = SessionObject(self.ctx, self.env)

    async def ask(self, owner, text):
        return await self._session.ask(owner, text)

    async def shared(self, text):
        return await self._session.shared(text)

    async def fetch(self, request):
        return self._session.fetch(request)

    async def webSocketMessage(self, socket, message):  # noqa: N802 - the platform's name
        await self._session.message(socket, message)

    async def webSocketClose(self, socket, *_info):  # noqa: N802
        self._session.closed(socket)

    async def webSocketError(self, socket, *_info):  # noqa: N802
        self._session.closed(socket)

    async def alarm(self, *_info):
        await self._session.alarm()
