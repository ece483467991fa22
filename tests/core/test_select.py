"""What exec refuses, and that what it refuses never reaches the database."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest

from kontract.core import limits, select
from kontract.core.errors import InvalidRequestError
from kontract.core.messages import Began, Begin, Conflict, Key
from kontract.core.rows import RowType
from kontract.core.storage import Table
from kontract.core.transaction import Call, RetryError, Transaction
from kontract.core.types import Epoch, Snapshot, TableKind, TablePointer, Version
from support.selects import ACCEPTED

# Everything somebody might try. Each text is refused before anything is asked of the database.
ESCAPES = [
    # other tables, schemas, catalogs
    "SELECT * FROM users",
    "SELECT id FROM storage",
    "SELECT sid FROM trxs",
    "SELECT * FROM tbl_tasks_5f0c1d",
    "SELECT * FROM kontract_view",
    'SELECT * FROM "kontract_view"',
    "SELECT * FROM rows",
    "SELECT * FROM own",
    "SELECT * FROM s1",
    "SELECT usename FROM pg_user",
    "SELECT * FROM pg_catalog.pg_authid",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM public.tasks",
    "SELECT * FROM pg_temp.tasks",
    "SELECT * FROM postgres.public.tasks",
    'SELECT * FROM "public"."tasks"',
    'SELECT * FROM "public.tasks"',
    'SELECT * FROM "Tasks"',
    'SELECT * FROM "tasks "',
    'SELECT * FROM "tasks"";DROP TABLE x"',
    "SELECT * FROM ONLY tasks",
    "SELECT * FROM tasks, storage",
    "SELECT * FROM tasks, tasks AS b",
    "SELECT tasks.id FROM tasks JOIN storage ON true",
    "SELECT tasks.id FROM tasks LEFT JOIN pg_class c ON true",
    "SELECT a.id FROM tasks a CROSS JOIN tasks b",
    "SELECT a.id FROM tasks a NATURAL JOIN tasks b",
    "SELECT a.id FROM tasks a JOIN tasks b USING (id)",
    "SELECT a.id FROM tasks a RIGHT JOIN tasks b ON true",
    "SELECT a.id FROM tasks a FULL JOIN tasks b ON true",
    "SELECT a.id FROM tasks a LEFT SEMI JOIN tasks b ON true",
    "SELECT id FROM tasks WHERE EXISTS (SELECT 1 FROM storage)",
    "SELECT id FROM tasks WHERE id IN (SELECT ptr FROM storage)",
    "SELECT id FROM tasks WHERE id = (SELECT current_user)",
    "SELECT (SELECT rolpassword FROM pg_authid LIMIT 1) AS x FROM tasks",
    "SELECT id FROM tasks WHERE id = ANY(SELECT ptr FROM storage)",
    "SELECT id FROM tasks WHERE id = ALL(SELECT ptr FROM storage)",
    "SELECT id FROM tasks WHERE id = SOME(SELECT ptr FROM storage)",
    "SELECT id FROM (SELECT id FROM storage) AS tasks",
    "SELECT id FROM (storage) AS tasks",
    "SELECT id FROM (tasks)",
    "SELECT id FROM (TABLE storage) AS x",
    "SELECT id FROM (VALUES ('a')) AS tasks(id)",
    "SELECT id FROM tasks AS t(id, data)",
    "SELECT id FROM LATERAL (SELECT id FROM tasks) AS x",
    "SELECT tasks.id FROM tasks, LATERAL (SELECT 1) AS x",
    "SELECT id FROM tasks TABLESAMPLE SYSTEM (1)",
    "SELECT id FROM ROWS FROM (generate_series(1, 2)) AS x(id)",
    "SELECT id FROM generate_series(1, 1000000000) AS id",
    "SELECT id FROM pg_read_file('/etc/passwd') AS id",
    "SELECT id FROM tasks, pg_ls_dir('/') AS f",
    "SELECT id FROM json_table('[]', '$[*]' COLUMNS (id text PATH '$'))",
    "SELECT id FROM XMLTABLE('/x' PASSING '<x/>' COLUMNS id text)",
    "SELECT id FROM unnest(ARRAY['a']) AS id",
    "SELECT id FROM dblink('host=evil', 'select 1') AS t(id text)",
    "SELECT 1",
    "SELECT 1 AS x",
    "SELECT version()",
    "SELECT",
    "SELECT FROM tasks",
    # several statements, other statements
    "SELECT id FROM tasks; DROP TABLE tasks",
    "SELECT id FROM tasks; SELECT id FROM tasks",
    "SELECT id FROM tasks;",
    ";SELECT id FROM tasks",
    "DROP TABLE tasks",
    "DELETE FROM tasks",
    "UPDATE tasks SET data = '{}'",
    "INSERT INTO tasks VALUES ('a')",
    "MERGE INTO tasks USING tasks ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE tasks",
    "TABLE tasks",
    "VALUES (1)",
    "COPY tasks TO '/tmp/x'",
    "COPY (SELECT id FROM tasks) TO PROGRAM 'id'",
    "EXPLAIN SELECT id FROM tasks",
    "EXPLAIN ANALYZE DELETE FROM tasks",
    "DO $$ BEGIN END $$",
    "CALL something()",
    "SET ROLE postgres",
    "RESET ALL",
    "SHOW ALL",
    "BEGIN",
    "COMMIT",
    "LISTEN x",
    "NOTIFY x",
    "LOCK tasks",
    "VACUUM",
    "CREATE TABLE x AS SELECT id FROM tasks",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DECLARE c CURSOR FOR SELECT id FROM tasks",
    "FETCH ALL FROM c",
    "GRANT ALL ON tasks TO PUBLIC",
    "(SELECT id FROM tasks)",
    "SELECT id FROM tasks UNION SELECT ptr FROM storage",
    "SELECT id FROM tasks UNION ALL SELECT id FROM tasks",
    "SELECT id FROM tasks INTERSECT SELECT id FROM tasks",
    "SELECT id FROM tasks EXCEPT SELECT id FROM tasks",
    "SELECT id FROM (SELECT id FROM tasks UNION SELECT ptr FROM storage) AS x",
    "WITH x AS (SELECT id FROM storage) SELECT id FROM x",
    "WITH tasks AS (SELECT ptr AS id FROM storage) SELECT id FROM tasks",
    "WITH x AS (DELETE FROM tasks RETURNING id) SELECT id FROM x",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT 1 FROM r",
    "SELECT id FROM (WITH x AS (DELETE FROM tasks RETURNING id) SELECT id FROM x) AS y",
    "SELECT id FROM tasks WHERE id IN (WITH x AS (SELECT ptr FROM storage) SELECT ptr FROM x)",
    "SELECT id INTO x FROM tasks",
    "SELECT id INTO TEMP x FROM tasks",
    "SELECT id FROM tasks FOR UPDATE",
    "SELECT id FROM tasks FOR SHARE",
    "SELECT id FROM tasks FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT id FROM tasks FOR KEY SHARE NOWAIT",
    "SELECT id FROM (SELECT id FROM tasks FOR UPDATE) AS x",
    # functions with effects, clocks, files, settings, waiting
    "SELECT now() FROM tasks",
    "SELECT current_timestamp AS x FROM tasks",
    "SELECT current_date AS x FROM tasks",
    "SELECT localtime AS x FROM tasks",
    "SELECT clock_timestamp() FROM tasks",
    "SELECT statement_timestamp() FROM tasks",
    "SELECT timeofday() FROM tasks",
    "SELECT random() FROM tasks",
    "SELECT gen_random_uuid() FROM tasks",
    "SELECT current_user AS x FROM tasks",
    "SELECT session_user AS x FROM tasks",
    "SELECT user AS x FROM tasks",
    "SELECT current_catalog AS x FROM tasks",
    "SELECT current_schema AS x FROM tasks",
    "SELECT current_schema() FROM tasks",
    "SELECT current_database() FROM tasks",
    "SELECT inet_server_addr() FROM tasks",
    "SELECT version() FROM tasks",
    "SELECT current_setting('data_directory') FROM tasks",
    "SELECT set_config('search_path', 'x', false) FROM tasks",
    "SELECT pg_sleep(10) FROM tasks",
    "SELECT PG_SLEEP(10) FROM tasks",
    "SELECT id FROM tasks WHERE pg_sleep(10) IS NULL",
    "SELECT id FROM tasks ORDER BY pg_sleep(10)",
    "SELECT id FROM tasks GROUP BY pg_sleep(10)",
    "SELECT id FROM tasks GROUP BY id HAVING pg_sleep(10) IS NULL",
    "SELECT id FROM tasks LIMIT (SELECT pg_sleep(10))",
    "SELECT id FROM tasks LIMIT length('x')",
    "SELECT id FROM tasks LIMIT (SELECT count(*) FROM storage)",
    "SELECT id FROM tasks OFFSET pg_sleep(10)",
    "SELECT count(*) FILTER (WHERE pg_sleep(1) IS NULL) FROM tasks",
    "SELECT array_agg(id ORDER BY pg_sleep(1)) FROM tasks",
    "SELECT CASE WHEN true THEN pg_sleep(1) END AS x FROM tasks",
    "SELECT coalesce(NULL, pg_sleep(1)) FROM tasks",
    "SELECT a.id FROM tasks a JOIN tasks b ON pg_sleep(1) IS NULL",
    "SELECT pg_catalog.pg_sleep(10) FROM tasks",
    "SELECT pg_catalog.lower(id) AS x FROM tasks",
    'SELECT "pg_sleep"(10) FROM tasks',
    'SELECT "lower"(id) AS x FROM tasks',
    'SELECT U&"pg\\005fsleep"(10) FROM tasks',
    "SELECT pg_read_file('/etc/passwd') FROM tasks",
    "SELECT pg_read_binary_file('/etc/passwd') FROM tasks",
    "SELECT pg_ls_dir('/') FROM tasks",
    "SELECT pg_stat_file('/etc/passwd') FROM tasks",
    "SELECT lo_import('/etc/passwd') FROM tasks",
    "SELECT lo_export(1, '/tmp/x') FROM tasks",
    "SELECT lo_get(1) FROM tasks",
    "SELECT dblink_exec('x', 'y') FROM tasks",
    "SELECT query_to_xml('SELECT * FROM storage', true, true, '') FROM tasks",
    "SELECT table_to_xml('storage', true, true, '') FROM tasks",
    "SELECT database_to_xml(true, true, '') FROM tasks",
    "SELECT cursor_to_xml('c', 1, true, true, '') FROM tasks",
    "SELECT ts_stat('SELECT 1') FROM tasks",
    "SELECT nextval('tbl_tasks_5f0c1d__order_seq') FROM tasks",
    "SELECT setval('x', 1) FROM tasks",
    "SELECT currval('x') FROM tasks",
    "SELECT pg_advisory_lock(1) FROM tasks",
    "SELECT pg_try_advisory_lock(1) FROM tasks",
    "SELECT pg_terminate_backend(1) FROM tasks",
    "SELECT pg_cancel_backend(1) FROM tasks",
    "SELECT pg_reload_conf() FROM tasks",
    "SELECT pg_notify('x', 'y') FROM tasks",
    "SELECT pg_current_xact_id() FROM tasks",
    "SELECT txid_current() FROM tasks",
    "SELECT pg_export_snapshot() FROM tasks",
    "SELECT pg_logical_emit_message(true, 'a', 'b') FROM tasks",
    "SELECT pg_create_restore_point('x') FROM tasks",
    "SELECT has_table_privilege('storage', 'select') FROM tasks",
    "SELECT to_regclass('storage') FROM tasks",
    "SELECT pg_get_viewdef(1) FROM tasks",
    "SELECT pg_relation_size('storage') FROM tasks",
    "SELECT obj_description(1) FROM tasks",
    "SELECT repeat('x', 1000000000) FROM tasks",
    "SELECT lpad('x', 1000000000) FROM tasks",
    "SELECT replace(id, 'a', id) FROM tasks",
    "SELECT format('%s', id) FROM tasks",
    "SELECT power(10, 100000) FROM tasks",
    "SELECT 10 ^ 100000 AS x FROM tasks",
    "SELECT factorial(100000) FROM tasks",
    "SELECT generate_series(1, 1000000000) FROM tasks",
    "SELECT jsonb_array_elements(data) FROM tasks",
    "SELECT jsonb_each(data) FROM tasks",
    "SELECT unnest(ARRAY[1, 2]) FROM tasks",
    "SELECT regexp_replace(id, '(a*)*b', '') FROM tasks",
    "SELECT substring(id, '(a*)*b') FROM tasks",
    "SELECT substring(id FROM '(a*)*b') FROM tasks",
    "SELECT id FROM tasks WHERE id ~ '(a*)*b'",
    "SELECT id FROM tasks WHERE id ~* 'x'",
    "SELECT id FROM tasks WHERE id !~ 'x'",
    "SELECT id FROM tasks WHERE id SIMILAR TO '(a*)*b'",
    "SELECT id FROM tasks WHERE data @? '$.a'",
    "SELECT id FROM tasks WHERE data @@ '$.a > 1'",
    "SELECT jsonb_path_query(data, '$.**') FROM tasks",
    "SELECT id FROM tasks WHERE id OPERATOR(pg_catalog.=) 'a'",
    "SELECT extract(epoch FROM now()) AS x FROM tasks",
    "SELECT to_char(now(), 'x') FROM tasks",
    "SELECT rank() OVER (ORDER BY id) FROM tasks",
    "SELECT count(*) OVER () FROM tasks",
    "SELECT id FROM tasks WINDOW w AS (ORDER BY id)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM tasks",
    "SELECT lower(id) FILTER (WHERE true) FROM tasks",
    "SELECT lower(DISTINCT id) FROM tasks",
    "SELECT lower(id ORDER BY id) FROM tasks",
    "SELECT lower(*) FROM tasks",
    "SELECT sum(*) FROM tasks",
    "SELECT concat(VARIADIC ARRAY['a']) FROM tasks",
    "SELECT lower(string => id) FROM tasks",
    "SELECT lower(string := id) FROM tasks",
    "SELECT lower() FROM tasks",
    "SELECT lower(id, id) FROM tasks",
    "SELECT row_to_json(tasks) FROM tasks",
    "SELECT to_jsonb(tasks) FROM tasks",
    "SELECT count(tasks.*) FROM tasks",
    "SELECT row(id) AS x FROM tasks",
    "SELECT id FROM tasks WHERE (id, id) = ('a', 'a')",
    # casts
    "SELECT 'storage'::regclass AS x FROM tasks",
    "SELECT CAST('storage' AS regclass) AS x FROM tasks",
    "SELECT 'storage'::regclass::text AS x FROM tasks",
    "SELECT 'lower'::regproc AS x FROM tasks",
    "SELECT 'postgres'::regrole AS x FROM tasks",
    "SELECT 1::oid AS x FROM tasks",
    "SELECT 'x'::name AS x FROM tasks",
    "SELECT 'x'::\"char\" AS x FROM tasks",
    "SELECT 'x'::xml AS x FROM tasks",
    "SELECT 'now'::timestamp AS x FROM tasks",
    "SELECT 'now'::timestamptz AS x FROM tasks",
    "SELECT 'today'::date AS x FROM tasks",
    "SELECT date 'today' AS x FROM tasks",
    "SELECT timestamp 'now' AS x FROM tasks",
    "SELECT interval '1 day' AS x FROM tasks",
    "SELECT id AT TIME ZONE 'UTC' AS x FROM tasks",
    "SELECT '(a*)*b'::jsonpath AS x FROM tasks",
    "SELECT 'x'::tsvector AS x FROM tasks",
    "SELECT 'x'::bytea AS x FROM tasks",
    "SELECT '1'::money AS x FROM tasks",
    "SELECT 'x'::storage AS x FROM tasks",
    "SELECT 'x'::public.text AS x FROM tasks",
    "SELECT 'x'::pg_catalog.regclass AS x FROM tasks",
    "SELECT 'x'::varchar(1) AS x FROM tasks",
    "SELECT '{1}'::int[] AS x FROM tasks",
    "SELECT TRY_CAST(id AS int) AS x FROM tasks",
    'SELECT id COLLATE "C" AS x FROM tasks',
    'SELECT id COLLATE pg_catalog."de_DE" AS x FROM tasks',
    # columns
    "SELECT ctid FROM tasks",
    "SELECT xmin FROM tasks",
    "SELECT xmax FROM tasks",
    "SELECT cmin FROM tasks",
    "SELECT tableoid FROM tasks",
    "SELECT tasks.ctid FROM tasks",
    "SELECT _deleted_txid FROM tasks",
    "SELECT _order FROM tasks",
    "SELECT position FROM tasks",
    "SELECT tasks FROM tasks",
    "SELECT t FROM tasks t",
    "SELECT tasks.id FROM tasks t",
    "SELECT public.tasks.id FROM tasks",
    "SELECT storage.id FROM tasks",
    "SELECT kontract_view.id FROM tasks",
    "SELECT s1.id FROM tasks",
    "SELECT s1.* FROM tasks",
    "SELECT own.id FROM tasks",
    "SELECT (tasks).id FROM tasks",
    "SELECT (tasks).* FROM tasks",
    "SELECT data.title FROM tasks",
    "SELECT data['title'] AS x FROM tasks",
    "SELECT data[0] AS x FROM tasks",
    "SELECT id.lower FROM tasks",
    "SELECT id FROM tasks ORDER BY ctid",
    "SELECT id FROM tasks ORDER BY 2",
    "SELECT id FROM tasks ORDER BY 0",
    "SELECT id FROM tasks ORDER BY id USING <",
    "SELECT id FROM tasks GROUP BY ROLLUP (id)",
    "SELECT id FROM tasks GROUP BY CUBE (id)",
    "SELECT id FROM tasks GROUP BY GROUPING SETS ((id), ())",
    "SELECT id FROM tasks GROUP BY ALL",
    "SELECT DISTINCT ON (id) id FROM tasks",
    "SELECT id FROM tasks FETCH FIRST 1 ROWS WITH TIES",
    "SELECT id FROM tasks LIMIT ALL",
    "SELECT id FROM tasks LIMIT 10 PERCENT",
    "SELECT id FROM tasks QUALIFY true",
    "SELECT id, id FROM tasks",
    "SELECT a.*, b.* FROM tasks a JOIN tasks b ON true",
    "SELECT data->>'x' FROM tasks",
    "SELECT a.id FROM tasks a JOIN tasks a ON true",
    "SELECT id FROM tasks a JOIN tasks b ON true",
    "SELECT x.id FROM (SELECT id FROM tasks) AS x JOIN (SELECT x.id FROM tasks) AS y ON true",
    "SELECT id FROM (SELECT id FROM tasks)",
    # comments
    "SELECT id FROM tasks -- where",
    "SELECT id FROM tasks --",
    "SELECT id /* x */ FROM tasks",
    "SELECT id FROM tasks /* /* */ */",
    "/* x */ SELECT id FROM tasks",
    "SELECT /*+ SeqScan(tasks) */ id FROM tasks",
    "SELECT id/**/FROM/**/tasks",
    "SELECT id FROM tasks /*",
    "-- x\nSELECT id FROM tasks",
    "SELECT id FROM tasks\n--\n; DROP TABLE tasks",
    "SELECT lower(id) /* sqlglot.anonymous */ FROM tasks",
    "SELECT id FROM tasks {# jinja #}",
    # quoting
    "SELECT $$a$$ AS x FROM tasks",
    "SELECT $x$ a $x$ AS x FROM tasks",
    "SELECT id FROM tasks WHERE id = $$ OR 1=1; DROP TABLE x; $$",
    "SELECT E'\\x41' AS x FROM tasks",
    "SELECT e'\\'' AS x FROM tasks",
    "SELECT U&'\\0061' AS x FROM tasks",
    "SELECT U&'d!0061' UESCAPE '!' AS x FROM tasks",
    'SELECT U&"\\0069d" FROM tasks',
    'SELECT * FROM U&"\\0074asks"',
    "SELECT B'1' AS x FROM tasks",
    "SELECT X'ff' AS x FROM tasks",
    "SELECT N'x' AS x FROM tasks",
    "SELECT 'a' 'b' AS x FROM tasks",
    "SELECT 'unterminated FROM tasks",
    'SELECT "unterminated FROM tasks',
    'SELECT id AS "a""b" FROM tasks',
    'SELECT id AS "a; DROP TABLE x" FROM tasks',
    'SELECT id AS "" FROM tasks',
    'SELECT id AS "ID, (SELECT 1)" FROM tasks',
    "SELECT id AS ünï FROM tasks",
    "SELECT id AS " + "x" * 64 + " FROM tasks",
    "SELECT `id` FROM tasks",
    "SELECT [id] FROM tasks",
    "SELECT \u0131d FROM tasks",
    "SELECT \uff49\uff44 FROM tasks",
    "SELECT id FROM ta\u017fks",
    "SELECT\u00a0id FROM tasks;\u00a0SELECT 1",
    "SELECT id\x00 FROM tasks",
    "SELECT '\x00' AS x FROM tasks",
    "SELECT '\ud800' AS x FROM tasks",
    # parameters and placeholders that are none
    "SELECT id FROM tasks WHERE id = $0",
    "SELECT id FROM tasks WHERE id = $1",
    "SELECT id FROM tasks WHERE id = $99999999999",
    "SELECT id FROM tasks WHERE id = $a",
    "SELECT id FROM tasks WHERE id = $'1'",
    "SELECT id FROM tasks WHERE id = :id",
    "SELECT id FROM tasks WHERE id = ?",
    "SELECT id FROM tasks WHERE id = %s",
    "SELECT id FROM tasks WHERE id = %(id)s",
    "SELECT id FROM tasks WHERE id = @id",
    "SELECT id FROM tasks WHERE id = {id}",
    "SELECT id FROM tasks WHERE id = {{ id }}",
    "SELECT id FROM $1",
    "SELECT id AS $1 FROM tasks",
    "SELECT $1.id FROM tasks",
    # numbers
    "SELECT 1_000 AS x FROM tasks",
    "SELECT 0xff AS x FROM tasks",
    "SELECT 1e999999 AS x FROM tasks",
    "SELECT 1" + "0" * 200 + " AS x FROM tasks",
    # too much of it
    "SELECT id FROM tasks WHERE " + "(" * 60 + "true" + ")" * 60,
    "SELECT id FROM tasks WHERE " + "(" * 3000 + "true" + ")" * 3000,
    "SELECT id FROM tasks WHERE " + "NOT " * 900 + "true",
    "SELECT " + "- " * 900 + "1 AS x FROM tasks",
    "SELECT " + "1 + " * 400 + "1 AS x FROM tasks",
    "SELECT id FROM tasks WHERE id IN (" + "'a', " * 600 + "'a')",
    "SELECT '" + "a" * 10_000 + "' AS x FROM tasks",
    "SELECT id FROM " + "(SELECT id FROM " * 50 + "tasks" + ") AS x" * 50,
    "SELECT a.id FROM tasks a JOIN tasks b ON true JOIN tasks c ON true JOIN tasks d ON true JOIN tasks e ON true",
    "SELECT " + "CASE WHEN true THEN " * 60 + "1" + " END" * 60 + " AS x FROM tasks",
    # what is no SQL at all
    "",
    " ",
    "id",
    "SELECT id FROM",
    "SELECT id FROM tasks WHERE",
    "SELECT id FROM tasks)",
    "SELECT (id FROM tasks",
    "SELECT id FROM tasks WHERE id = = 'a'",
    "SELECT id FROM tasks\\; SELECT 1",
    "SELECT id FROM tasks \\gexec",
]  # fmt: skip


class Spy:
    """Stands for the transaction and for the way to the table's pointer: nobody may ask for either."""

    def __init__(self):
        self.asked = []

    async def locate(self, name):
        self.asked.append(name)

    async def select(self, pointer, selection):
        self.asked.append(selection)
        return ["{}"]


def table(spy):
    return Table("tasks", RowType("tasks"), spy, spy.locate, lambda: "new")


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(set(ESCAPES)) >= 150
    assert len(set(ESCAPES)) == len(ESCAPES)
    assert len(ACCEPTED) >= 30


@pytest.mark.parametrize("text", ESCAPES, ids=[f"{n}-{text[:50]!a}" for n, text in enumerate(ESCAPES)])
async def test_is_refused_before_anything_is_asked(text):
    """400 with a sentence, and the database has not heard of it."""
    spy = Spy()
    with pytest.raises(InvalidRequestError) as caught:
        await table(spy).exec(text)
    assert spy.asked == []
    assert len(caught.value.message) < 300
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("text", "params"), [case[:2] for case in ACCEPTED], ids=range(len(ACCEPTED)))
async def test_what_is_accepted_is_asked_in_our_own_words(text, params):
    """Tables, functions and types are written with where they come from; nothing else is a name."""
    spy = Spy()
    assert await table(spy).exec(text, params) == [{}]
    written = spy.asked[1].text(3)
    bare = re.sub(r"E?'(?:[^']|'')*'", "''", written)
    assert re.findall(r"(?:(?<!DISTINCT )FROM|JOIN) (?!\(SELECT )(\S+)", bare) == ['"kontract_view"'] * bare.count(
        "kontract_view"
    )
    for function in re.findall(r"([a-z_.]+)\(", bare):
        assert function.startswith("pg_catalog.")
    assert not re.search(r";|--|/\*|\$\$|\\", bare)
    numbers = {int(n) for n in re.findall(r"\$(\d+)", bare)}
    assert numbers == set(range(4, 4 + len(params)))


@pytest.mark.parametrize(
    "params",
    [
        "abc", b"abc", {"a": 1}, {1}, None, 7, [[1]], [{}], [b"x"], [object()], [float("nan")], [float("inf")], [2**63],
        [-(2**63) - 1], ["\x00"], ["\ud800"], [], [1, 2], ["a"] * 101, ["x" * 1_000_001],
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
async def test_parameters_that_cannot_be_bound(params):
    spy = Spy()
    with pytest.raises(InvalidRequestError):
        await table(spy).exec("SELECT id FROM tasks WHERE id = $1", params)
    assert spy.asked == []


@pytest.mark.parametrize("text", [None, 7, b"SELECT id FROM tasks", ["SELECT id FROM tasks"]], ids=repr)
async def test_sql_that_is_no_text(text):
    with pytest.raises(InvalidRequestError, match="must be text"):
        await table(Spy()).exec(text)


def test_types_of_parameters_are_those_of_python():
    parsed = select.parse(
        "SELECT $1 AS a, $2 AS b, $3 AS c, $4 AS d, $5 AS e FROM tasks", ["x", 1, 1.5, True, None], "tasks"
    )
    assert re.findall(r"CAST\(CAST\(\$(\d+) AS pg_catalog.text\) AS pg_catalog.(\w+)\)", parsed.text(10)) == [
        ("11", "text"), ("12", "int8"), ("13", "float8"), ("14", "bool"), ("15", "text"),
    ]  # fmt: skip
    assert parsed.values() == ["x", "1", "1.5", "true", None]


def test_a_bool_is_not_taken_for_the_integer_it_equals():
    """True == 1 in Python: a cache by value would mix them up."""
    text = "SELECT $1 AS x FROM tasks"
    assert "int8" in select.parse(text, [1], "tasks").text(0)
    assert "bool" in select.parse(text, [True], "tasks").text(0)


def test_names_of_tables_that_are_no_identifiers():
    for name in ("my tasks", "Tasks", "a.b", 'a"b', "select"):
        quoted = '"' + name.replace('"', '""') + '"'
        assert "kontract_view" in select.parse(f"SELECT id FROM {quoted}", [], name).text(0)
        with pytest.raises(InvalidRequestError):
            select.parse(f'SELECT id FROM "x{quoted[1:]}', [], name)


def test_the_same_text_on_another_table_is_checked_again():
    select.parse("SELECT id FROM tasks", [], "tasks")
    with pytest.raises(InvalidRequestError, match="FROM accounts only"):
        select.parse("SELECT id FROM tasks", [], "accounts")


def test_too_many_rows():
    with pytest.raises(InvalidRequestError, match="LIMIT"):
        select.rows(["{}"] * (limits.QUERY_ROWS + 1))


class Coordinator:
    """Answers begin, and keeps what prepare says."""

    def __init__(self):
        self.prepared = None

    async def ask(self, request):
        if isinstance(request, Begin):
            return Began(Snapshot(7), Epoch(1))
        self.prepared = request
        return Conflict("tbl", "a", 8)


class Store:
    """Has one row, and keeps what it was asked."""

    def warm(self):
        pass

    async def select(self, pointer, selection, snapshot, pending):
        self.asked = (snapshot, [p.id for p in pending])
        return ['{"n":1}']

    async def history(self, pointer, row_id, snapshot):
        return [(Version(row_id, '{"n":1}', 3, "ann"), 5), (Version(row_id, '{"n":2}', 5, "ann"), None)]


async def test_what_was_read_is_validated():
    """exec reads the whole table, history its row: a change of either is a conflict for whoever writes on top of it."""
    coordinator, store = Coordinator(), Store()
    call = Call(id="c", owner="o", user="ann")
    transaction = Transaction(call, 1, coordinator, store, None, asyncio.Lock())

    async def locate(name):
        return TablePointer(name, "tbl", TableKind.VERSIONED, 7)

    tasks = Table("tasks", RowType("tasks"), transaction, locate, lambda: "new")
    await tasks.set("own", {})
    assert await tasks.exec("SELECT (data->>'n')::int AS n FROM tasks") == [{"n": 1}]
    assert store.asked == (7, ["own"])
    assert await tasks.history("a") == [
        {"txid": 3, "deleted_txid": 5, "value": {"n": 1, "id": "a"}},
        {"txid": 5, "deleted_txid": None, "value": {"n": 2, "id": "a"}},
    ]
    with pytest.raises(RetryError):
        await transaction.commit()
    assert coordinator.prepared.reads == [Key("tbl", "a")]
    assert [(p.ptr, bytes(p.contains), p.whole) for p in coordinator.prepared.predicates] == [("tbl", b"{}", True)]


@pytest.mark.parametrize("sqlstate", ["08006", "57014", "42P01", "42501", "53200", "XX000", "40001"])
def test_errors_that_are_not_the_callers(sqlstate):
    assert select.explain(sqlstate) is None


@pytest.mark.parametrize("sqlstate", ["22P02", "22012", "42883", "21000", "22P05", "54000"])
def test_errors_that_are(sqlstate):
    assert isinstance(select.explain(sqlstate), InvalidRequestError)


def test_sqlglot_is_not_imported_before_it_is_needed():
    """It takes more than a second in workerd, and most Workers never call exec."""
    code = "import sys, kontract, kontract.gateway.app, kontract.core.storage; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
