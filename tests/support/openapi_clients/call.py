"""Calls every function of the demo with what openapi-python-client has made of its OpenAPI document."""

import sys

from made import AuthenticatedClient
from made.api.api_v1 import (
    balance,
    create_task,
    delete_task,
    get_task,
    list_accounts,
    list_tasks,
    open_account,
    rename_task,
    toggle_task,
    total,
    transfer,
)
from made.models import (
    BalanceBody,
    CreateTaskBody,
    DeleteTaskBody,
    GetTaskBody,
    KontractError,
    ListAccountsBody,
    ListTasksBody,
    OpenAccountBody,
    RenameTaskBody,
    ToggleTaskBody,
    TotalBody,
    TransferBody,
)

url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token, timeout=60)


def result(function, body, **more):
    answer = function.sync(client=client, body=body, **more)
    assert not isinstance(answer, KontractError), answer
    return answer.result


task = result(create_task, CreateTaskBody(title="Made by a generator"), idempotency_key="made")
assert result(create_task, CreateTaskBody(title="Made by a generator"), idempotency_key="made").id == task.id
assert result(toggle_task, ToggleTaskBody(id=task.id)).done is True
assert result(rename_task, RenameTaskBody(id=task.id, title="Renamed")).title == "Renamed"
assert result(get_task, GetTaskBody(id=task.id)).created_by == task.created_by
assert task.id in [one.id for one in result(list_tasks, ListTasksBody(done=True, limit=1000))]
assert result(delete_task, DeleteTaskBody(id=task.id)) is True
assert result(open_account, OpenAccountBody(id="py-a", balance=10)).balance == 10
assert result(open_account, OpenAccountBody(id="py-b")).balance == 0
moved = result(transfer, TransferBody(src="py-a", dst="py-b", amount=4))
assert moved.additional_properties == {"py-a": 6, "py-b": 4}
assert result(balance, BalanceBody(id="py-b")) == 4
assert {"py-a", "py-b"} <= {one.id for one in result(list_accounts, ListAccountsBody(limit=1000))}
assert result(total, TotalBody()) >= 10
wrong = get_task.sync(client=client, body=GetTaskBody(id="nowhere"))
assert (wrong.error, bool(wrong.request_id)) == ("NOT_FOUND", True)
print("done")
