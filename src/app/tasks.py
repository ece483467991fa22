"""A list of tasks."""

from typing import Annotated

from msgspec import Meta, Struct

from kontract import Context, NotFoundError, RowId, backend, perm, perms, primkey, table

Title = Annotated[str, Meta(min_length=1, max_length=200)]


@table("tasks")
class Task(Struct):
    """Something to do."""

    id: Annotated[str, primkey]
    title: Title
    done: bool = False
    created_by: Annotated[str, perm(perms.R__)] = ""


@backend(egroup="api-v1", perm=perms.RW_)
async def create_task(ctx: Context, title: Title) -> Task:
    """Create a task."""
    task_id = await ctx.storage.tasks.push({"title": title, "created_by": ctx.user})
    return await ctx.storage.tasks.get(task_id)


@backend(egroup="api-v1", perm=perms.R__)
async def get_task(ctx: Context, id: RowId) -> Task:
    """Return one task."""
    task = await ctx.storage.tasks.get(id)
    if task is None:
        raise NotFoundError(f"there is no task {id!r}")
    return task


@backend(egroup="api-v1", perm=perms.R__)
async def list_tasks(
    ctx: Context,
    done: bool | None = None,
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50,
    after: RowId | None = None,
) -> list[Task]:
    """Return tasks, oldest first; `after` is the id of the last task of the previous page."""
    wanted = None if done is None else {"done": done}
    return [task async for task in ctx.storage.tasks.query(wanted, limit=limit, after=after)]


@backend(egroup="api-v1", perm=perms.RW_)
async def toggle_task(ctx: Context, id: RowId) -> Task:
    """Mark a task as done, or as not done."""
    task = await get_task(ctx, id)
    return await ctx.storage.tasks.update(id, done=not task.done)


@backend(egroup="api-v1", perm=perms.RW_)
async def rename_task(ctx: Context, id: RowId, title: Title) -> Task:
    """Give a task another title."""
    return await ctx.storage.tasks.update(id, title=title)


@backend(egroup="api-v1", perm=perms.RW_)
async def delete_task(ctx: Context, id: RowId) -> bool:
    """Delete a task; return false if there is none."""
    return await ctx.storage.tasks.delete(id)
