"""The role that a gateway connects as: it uses the tables but neither owns nor alters them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import asyncpg

from kontract.cli.toolchain.problem import Problem
from kontract.core import limits
from kontract.core.transaction import sql

PASSWORD = "KONTRACT_ROLE_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable with the password of a role that `kontract migrate --gateway-role` creates or changes."""

COORDINATION = ("coordination", "coordination_checkpoints", "coordination_log", "shared")
"""Tables that several nodes share (sql/coordination.sql)."""


def grants(role: str, tables: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Return the minimal grants for a role of the gateway, as SQL.

    ``tables``: those that storage names. ``others``: tables of the gateway that have no sequence, such as
    :data:`COORDINATION`.
    """
    ours = sorted(set(tables))
    names = ", ".join(sql.quote(name) for name in ("trxs", *sorted(others), *ours))
    quoted = identifier(role)
    return [
        f"GRANT SELECT ON storage TO {quoted}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {quoted}",
        *(f"GRANT USAGE ON SEQUENCE {sql.quote(f'{name}__order_seq')} TO {quoted}" for name in ours),
    ]


def identifier(name: str) -> str:
    """Quote the name of a role."""
    return '"' + name.replace('"', '""') + '"'


async def prepare(connection: asyncpg.Connection, role: str) -> str:
    """Create the role unless it exists, and grant it what it needs on the current tables.

    Returns a sentence on what was done; raises Problem when a new role has no password or the role could do more.
    """
    password = os.environ.get(PASSWORD, "")
    found = await connection.fetchrow(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication AS strong, "
        "rolname = current_user AS own FROM pg_catalog.pg_roles WHERE rolname = $1",
        role,
    )
    if found is not None and (found["own"] or found["strong"]):
        raise Problem(
            f"The role {role} has more rights than a gateway needs.",
            "Name another role; it is created if it does not exist.",
        )
    if found is None and not password:
        raise Problem(f"The role {role} does not exist, and there is no password for creating it.", f"Set {PASSWORD}.")
    quoted = identifier(role)
    tables = await connection.fetch(
        "SELECT c.relname FROM pg_catalog.pg_class AS c "
        "JOIN storage AS s ON c.oid = to_regclass(quote_ident(s.ptr)) WHERE c.relkind IN ('r', 'p')"
    )
    others = [
        name
        for name in COORDINATION
        if await connection.fetchval("SELECT to_regclass(quote_ident($1)) IS NOT NULL", name)
    ]
    schema = identifier(await connection.fetchval("SELECT current_schema()"))
    statements = [] if found else [f"CREATE ROLE {quoted} LOGIN"]
    if password:
        literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
        statements.append(f"ALTER ROLE {quoted} PASSWORD {literal}")
    statements += [
        # A statement of a dead server must not hold its locks forever; through a pooler only the role can set this.
        f"ALTER ROLE {quoted} SET statement_timeout = {limits.STATEMENT_MS}",
        f"GRANT USAGE ON SCHEMA {schema} TO {quoted}",
        *grants(role, [row["relname"] for row in tables], others),
    ]
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement)
    return f"Role {role} {'has' if found else 'was created and has'} what a gateway needs."
