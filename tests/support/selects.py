"""SELECTs that `exec` must answer, each with its answer computed in Python from the same rows."""

from __future__ import annotations

import json
from collections import Counter

ROWS = {
    "a": {"title": "Alpha", "done": False, "n": 3, "tags": ["x", "y"], "who": {"name": "ann"}, "f": 1.5},
    "b": {"title": "beta", "done": True, "n": 1, "tags": [], "who": {"name": "bob"}, "f": -2.25},
    "c": {"title": "Gamma's", "done": False, "n": 2, "tags": ["y"], "who": {"name": "ann"}, "f": 0.0},
    "d": {"title": 'd\\elta "q"', "done": True, "n": 5, "tags": ["z", "x"], "who": {}, "a.b": "dotted", "0": "zero"},
    "e": {"title": "ünï", "done": False, "n": None, "tags": ["x"], "who": {"name": "eve"}, "$.x": 1},
    "B": {"title": "-- ; /* */ $$", "done": True, "n": 40},
}  # fmt: skip

IDS = sorted(ROWS, key=str.encode)
R = [{"id": i, **ROWS[i]} for i in IDS]
SMALL = [r for r in R if r["n"] is not None]


def col(**values):
    return [values]


def names(test):
    return [{"id": r["id"]} for r in R if test(r)]


# (SQL, parameters, the rows it answers with)
ACCEPTED = [
    ("SELECT id FROM tasks ORDER BY id", [], names(lambda r: True)),
    ("select ID from TASKS order by ID", [], names(lambda r: True)),
    ('SELECT "id" FROM "tasks" ORDER BY "id"', [], names(lambda r: True)),
    ("SELECT id FROM tasks ORDER BY 1 DESC", [], names(lambda r: True)[::-1]),
    ("SELECT * FROM tasks WHERE id = 'a'", [], col(id="a", data=ROWS["a"], _txid=1, _owner="ann")),
    ("SELECT t.* FROM tasks AS t WHERE t.id = $1", ["b"], col(id="b", data=ROWS["b"], _txid=1, _owner="ann")),
    ("SELECT data->>'title' AS title FROM tasks ORDER BY id LIMIT 2 OFFSET 1", [],
     [{"title": r["title"]} for r in R[1:3]]),
    ("SELECT id, data->>'title' AS title FROM tasks WHERE data->>'done' = $1 ORDER BY id LIMIT 10", ["true"],
     [{"id": r["id"], "title": r["title"]} for r in R if r["done"]]),
    ("SELECT id FROM tasks WHERE (data->>'done')::boolean = $1 ORDER BY id LIMIT $2", [False, 2],
     names(lambda r: not r["done"])[:2]),
    ("SELECT id FROM tasks WHERE (data->>'n')::int > $1 ORDER BY (data->>'n')::int DESC, id", [1],
     [{"id": r["id"]} for r in sorted(SMALL, key=lambda r: -r["n"]) if r["n"] > 1]),
    ("SELECT id FROM tasks WHERE (data->>'f')::double precision < $1 ORDER BY id", [1.25],
     names(lambda r: r.get("f", 9) < 1.25)),
    ("SELECT id, (data->>'n')::int AS n FROM tasks ORDER BY n NULLS FIRST LIMIT 2", [],
     [{"id": "e", "n": None}, {"id": "b", "n": 1}]),
    ("SELECT id, (data->>'n')::int AS n FROM tasks ORDER BY n DESC LIMIT 2", [],
     [{"id": "e", "n": None}, {"id": "B", "n": 40}]),
    ("SELECT id, (data->>'n')::int AS n FROM tasks ORDER BY n DESC NULLS LAST LIMIT 1", [], col(id="B", n=40)),
    ("SELECT count(*) FROM tasks", [], col(count=6)),
    ("SELECT count(*) AS all_rows, count((data->>'n')::int) AS with_n, sum((data->>'n')::int) AS total FROM tasks", [],
     col(all_rows=6, with_n=5, total=51)),
    ("SELECT min((data->>'n')::int), max((data->>'n')::int), avg((data->>'n')::int)::double precision FROM tasks", [],
     col(min=1, max=40, avg=10.2)),
    ("SELECT bool_and((data->>'done')::bool), bool_or((data->>'done')::bool) FROM tasks", [],
     col(bool_and=False, bool_or=True)),
    ("SELECT array_agg(id ORDER BY id DESC) AS ids FROM tasks", [], col(ids=IDS[::-1])),
    ("SELECT jsonb_agg(data->'n' ORDER BY id) AS ns FROM tasks WHERE (data->>'done')::bool", [],
     col(ns=[r["n"] for r in R if r["done"]])),
    ("SELECT string_agg(id, '-' ORDER BY id) AS s FROM tasks", [], col(s="-".join(IDS))),
    ("SELECT jsonb_object_agg(id, data->'done') AS o FROM tasks", [], col(o={r["id"]: r["done"] for r in R})),
    ("SELECT count(DISTINCT data->'who'->>'name') AS people FROM tasks", [], col(people=3)),
    ("SELECT count(*) FILTER (WHERE (data->>'done')::bool) AS done FROM tasks", [], col(done=3)),
    (("SELECT data->'who'->>'name' AS who, count(*) AS n FROM tasks GROUP BY data->'who'->>'name' "
     "HAVING count(*) > 1 AND (data->'who'->>'name') IS NOT NULL"), [], col(who="ann", n=2)),
    ("SELECT data->>$1 AS v, count(*) AS n FROM tasks GROUP BY data->>$1 ORDER BY v", ["done"],
     [{"v": k, "n": n} for k, n in sorted(Counter(json.dumps(r["done"]) for r in R).items())]),
    ("SELECT data->>'done' AS done, count(*) AS n FROM tasks GROUP BY done ORDER BY 1", [],
     [{"done": "false", "n": 3}, {"done": "true", "n": 3}]),
    ("SELECT DISTINCT data->>'done' AS done FROM tasks ORDER BY done", [], [{"done": "false"}, {"done": "true"}]),
    ("SELECT id FROM tasks WHERE data @> '{\"who\": {\"name\": \"ann\"}}' ORDER BY id", [],
     names(lambda r: r.get("who", {}).get("name") == "ann")),
    ("SELECT id FROM tasks WHERE data @> $1::jsonb ORDER BY id", ['{"tags": ["x"]}'],
     names(lambda r: "x" in r.get("tags", []))),
    ("SELECT id FROM tasks WHERE '{\"n\": 1}' <@ data", [], names(lambda r: r["n"] == 1)),
    ("SELECT id FROM tasks WHERE data ? 'f' ORDER BY id", [], names(lambda r: "f" in r)),
    ("SELECT id FROM tasks WHERE NOT data ? 'tags'", [], names(lambda r: "tags" not in r)),
    ("SELECT id FROM tasks WHERE data ?| ARRAY['0', '$.x'] ORDER BY id", [],
     names(lambda r: "0" in r or "$.x" in r)),
    ("SELECT id FROM tasks WHERE data ?& ARRAY['0', 'a.b']", [], names(lambda r: "0" in r and "a.b" in r)),
    (("SELECT data->>'a.b' AS x, data->>'0' AS y, data->'tags'->>0 AS z, data->'tags'->>-1 AS w FROM tasks "
     "WHERE id = 'd'"), [], col(x="dotted", y="zero", z="z", w="x")),
    ("SELECT data #>> '{who,name}' AS x, data #> '{tags,0}' AS y FROM tasks WHERE id = 'a'", [], col(x="ann", y="x")),
    ("SELECT data->>'title' || ':' || id AS x FROM tasks WHERE id = 'b'", [], col(x="beta:b")),
    ("SELECT id FROM tasks WHERE data->>'title' LIKE '%a' ORDER BY id", [], names(lambda r: r["title"].endswith("a"))),
    ("SELECT id FROM tasks WHERE data->>'title' NOT ILIKE '%A%' ORDER BY id", [],
     names(lambda r: "a" not in r["title"].lower())),
    ("SELECT id FROM tasks WHERE data->>'title' = 'Gamma''s'", [], names(lambda r: r["title"] == "Gamma's")),
    ("SELECT id FROM tasks WHERE data->>'title' = 'd\\elta \"q\"'", [], names(lambda r: r["id"] == "d")),
    ("SELECT id FROM tasks WHERE data->>'title' = $1", ['d\\elta "q"'], names(lambda r: r["id"] == "d")),
    ("SELECT id FROM tasks WHERE data->>'title' = '-- ; /* */ $$'", [], names(lambda r: r["id"] == "B")),
    ("SELECT id FROM tasks WHERE (data->>'n')::int BETWEEN 2 AND $1 ORDER BY id", [5],
     names(lambda r: r["n"] and 2 <= r["n"] <= 5)),
    ("SELECT id FROM tasks WHERE id IN ('a', $1, $2) AND NOT (data->>'done')::bool ORDER BY id", ["b", "c"],
     names(lambda r: r["id"] in "abc" and not r["done"])),
    ("SELECT id FROM tasks WHERE id NOT IN ('a', 'b') AND data->>'n' IS NULL", [], names(lambda r: r["n"] is None)),
    ("SELECT id FROM tasks WHERE data->>'n' IS DISTINCT FROM $1 ORDER BY id", [None],
     names(lambda r: r["n"] is not None)),
    ("SELECT id FROM tasks WHERE (data->>'done')::bool IS TRUE AND (data->>'n')::int % 2 = 1 ORDER BY id", [],
     names(lambda r: r["done"] and r["n"] % 2 == 1)),
    (("SELECT CASE WHEN (data->>'n')::int > 2 THEN 'many' WHEN data->>'n' IS NULL THEN NULL ELSE 'few' END AS size "
     "FROM tasks ORDER BY id"), [],
     [{"size": None if r["n"] is None else "many" if r["n"] > 2 else "few"} for r in R]),
    ("SELECT CASE data->>'done' WHEN 'true' THEN 1 ELSE 0 END AS x FROM tasks ORDER BY id LIMIT 2", [],
     [{"x": int(r["done"])} for r in R[:2]]),
    ("SELECT coalesce((data->>'n')::int, -1) AS n, nullif(id, 'a') AS x FROM tasks WHERE id IN ('a', 'e') ORDER BY id",
     [], [{"n": 3, "x": None}, {"n": -1, "x": "e"}]),
    ("SELECT greatest(1, (data->>'n')::int) AS g, least(1, 2) AS l FROM tasks WHERE id = 'B'", [], col(g=40, l=1)),
    (("SELECT lower(id) AS l, upper(id) AS u, length(id) AS n, left(data->>'title', 2) AS t, btrim(' x ') AS b, "
     "split_part('p,q', ',', 2) AS s, strpos('abc', 'c') AS p, substr('abc', 2) AS v, reverse('ab') AS w "
     "FROM tasks WHERE id = 'a'"), [], col(l="a", u="A", n=1, t="Al", b="x", s="q", p=3, v="bc", w="ba")),
    (("SELECT abs(-2) AS a, round(2.345, 2) AS r, floor(1.5) AS f, ceil(1.5) AS c, mod(7, 3) AS m, 7 / 2 AS d, "
     "- (1 - 3) * 2 + 1 AS e FROM tasks WHERE id = 'a'"), [], col(a=2, r=2.35, f=1, c=2, m=1, d=3, e=5)),
    (("SELECT jsonb_array_length(data->'tags') AS n, jsonb_typeof(data->'who') AS t, jsonb_build_object('k', id) AS o, "
     "jsonb_build_array(1, id, NULL) AS l FROM tasks WHERE id = 'a'"), [],
     col(n=2, t="object", o={"k": "a"}, l=[1, "a", None])),
    (("SELECT a.id, b.id AS other FROM tasks a JOIN tasks b ON a.data->'who'->>'name' = b.data->'who'->>'name' "
     "AND a.id < b.id"), [], col(id="a", other="c")),
    (("SELECT a.id, count(b.id) AS n FROM tasks a LEFT JOIN tasks b ON (b.data->>'n')::int < (a.data->>'n')::int "
     "GROUP BY a.id ORDER BY a.id"), [],
     [{"id": r["id"], "n": sum(o["n"] < r["n"] for o in SMALL) if r["n"] is not None else 0} for r in R]),
    ("SELECT x.n FROM (SELECT (data->>'n')::int AS n FROM tasks WHERE (data->>'done')::bool) AS x ORDER BY x.n", [],
     [{"n": n} for n in sorted(r["n"] for r in SMALL if r["done"])]),
    ("SELECT id FROM tasks WHERE (data->>'n')::int = (SELECT max((data->>'n')::int) FROM tasks)", [],
     names(lambda r: r["n"] == 40)),
    (("SELECT t.id FROM tasks t WHERE EXISTS (SELECT 1 FROM tasks o WHERE o.id <> t.id AND o.data->'who' = "
     "t.data->'who') ORDER BY t.id"), [], [{"id": "a"}, {"id": "c"}]),
    ("SELECT id FROM tasks WHERE id IN (SELECT id FROM tasks WHERE data->>'done' = 'true') ORDER BY id", [],
     names(lambda r: r["done"])),
    ("SELECT _txid, _owner FROM tasks WHERE id = 'a'", [], col(_txid=1, _owner="ann")),
    ('SELECT id AS "camelCase" FROM tasks WHERE id = \'a\'', [], col(camelCase="a")),
    ("SELECT $1::numeric + 1 AS n, $2 AS b, $3 AS x, $4::int AS i, $5 AS f FROM tasks WHERE id = 'a'",
     ["9007199254740993", True, None, -7, 0.1], col(n=9007199254740994, b=True, x=None, i=-7, f=0.1)),
    ("SELECT id FROM tasks WHERE $1 IS NULL OR id = $1 ORDER BY id LIMIT 1", ["c"], col(id="c")),
    ("SELECT id FROM tasks WHERE id = $1", ["a' OR 'x'='x"], []),
    ("SELECT id FROM tasks WHERE id = $1", ["a\\' OR 1=1 --"], []),
    ("SELECT 'now' AS x, 1.50 AS n, TRUE AS t, NULL AS z FROM tasks LIMIT 1", [], col(x="now", n=1.5, t=True, z=None)),
]  # fmt: skip
