"""What the fixture `worker` is made of: the application in workerd, with callers and variables."""

import pytest

from kontract import HttpError, UnauthorizedError
from kontract.client import Client
from kontract.testing.changes import changes_of
from kontract.testing.worker import Worker


@pytest.fixture(scope="module")
def other_worker(kontract_checkout, kontract_server, kontract_reaper, tmp_path_factory):
    url, folder = kontract_server.create("other_worker"), tmp_path_factory.mktemp("worker")
    environment = {"KONTRACT_SECRET": "not this one", "KONTRACT_SIGN_UP": "anonymous", "MOTTO": "it's #1"}
    with Worker.started(kontract_checkout, url, folder, kontract_reaper, environment, "tenant-1") as running:
        yield running


async def test_callers_are_who_the_test_says(other_worker):
    async with other_worker.as_user("ann", groups=["admin"], owner="tenant-2") as ann:
        me = await ann.me()
        assert (me.user, me.owner, me.ugroups) == ("ann", "tenant-2", ["admin"])
    async with await other_worker.anonymous() as visitor:
        assert (await visitor.me()).owner == "tenant-1"
    async with Client(other_worker.url) as nobody:
        with pytest.raises(UnauthorizedError):
            await nobody.list_tasks()


async def test_it_has_the_variables_that_it_is_given(other_worker):
    """Over those of wrangler.toml, where everybody may register; quotes and all."""
    with pytest.raises(HttpError) as refused:
        await Client.register(other_worker.url, "ann", "a good password")
    assert refused.value.status in (403, 404)
    assert "MOTTO" in other_worker.log_text()


async def test_changes_are_heard_from_the_moment_of_listening(other_worker):
    async with other_worker.as_user("bob") as bob, changes_of(bob, "tasks") as changes:
        task = await bob.create_task("Told")
        assert (await anext(changes)).id == task["id"]
