"""The application in workerd, the runtime that it is deployed to. Its data stays, so the test has names of its own."""

import pytest

from kontract import NotFoundError


async def test_the_worker_answers_as_the_application_does(worker):
    async with worker.as_user("ann") as ann, await worker.anonymous() as visitor:
        task = await ann.create_task("Buy milk, in workerd")

        assert task["created_by"] == "ann"
        assert await visitor.get_task(task["id"]) == task
        assert await visitor.delete_task(task["id"]) is True
        with pytest.raises(NotFoundError):
            await ann.get_task(task["id"])
