// Calls and sessions of the client, against a server that answers what a test wants to see dealt with.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KontractError, connect, memoryStorage, parseServerTiming } from "../../public/kontract.js";
import { failure, granted, later, serve } from "./server.mjs";

const backoff = { first: 1, last: 4 };

function asClient(url, options = {}) {
  return connect({ url, token: "t", backoff, ...options });
}

test("a function is called by its name, with its arguments, and its result is returned", async (t) => {
  const { url, requests } = await serve(t, () => ({ result: { id: "1" } }));
  const api = asClient(`${url}/`);

  assert.deepEqual(await api.create_task("Käse", 2), { id: "1" });
  const [{ method, path, headers, text }] = requests;
  assert.deepEqual([method, path, text], ["POST", "/rpc/create_task", '["Käse",2]']);
  assert.equal(headers.authorization, "Bearer t");
  assert.equal(headers["content-type"], "application/json");
});

test("arguments that are undefined are left out, or what is said to stand for them", async (t) => {
  const { url, requests } = await serve(t, () => ({ result: null }));
  const defaults = new Map([["f", [undefined, 7, null]]]);
  const api = asClient(url, { defaults });

  await api.f(1, undefined);
  await api.f(1, undefined, undefined, 2);
  await api.constructor(undefined, 1);
  assert.deepEqual(
    requests.map(({ text }) => text),
    ["[1]", "[1,7,null,2]", "[null,1]"],
  );
  await assert.rejects(api.f(undefined, 1), /argument 1 is required when a later one is passed/);
});

test("functions that are named like the client's own are called by name", async (t) => {
  const { url, requests } = await serve(t, () => ({ result: null }));
  const api = asClient(url);

  await api.call("stream", ["a"]);
  await api.call("../auth/logout");
  assert.deepEqual(
    requests.map(({ path }) => path),
    ["/rpc/stream", "/rpc/..%2Fauth%2Flogout"],
  );
  await assert.rejects(api.call("create_task", "no array"), TypeError);
});

test("a client is no promise, so it can be returned from async functions", async () => {
  const api = await (async () => connect({ url: "http://127.0.0.1:1" }))();
  assert.equal(typeof api.call, "function");
  assert.equal(api[Symbol.iterator], undefined);
});

test("no answer is null", async (t) => {
  const { url } = await serve(t, () => ({ status: 204, raw: "" }));
  assert.equal(await asClient(url).forget(), null);
});

test("an error has the server's code, sentence, request id and details", async (t) => {
  const details = { function: "f", table: "accounts", key: "bob", attempts: 8 };
  const { url, requests } = await serve(t, () => failure(404, "NOT_FOUND", { details }));

  const error = await asClient(url)
    .f()
    .catch((thrown) => thrown);
  assert.ok(error instanceof KontractError);
  assert.deepEqual(
    [error.code, error.message, error.requestId, error.status, error.details],
    ["NOT_FOUND", "NOT_FOUND it is", "r1", 404, details],
  );
  assert.equal(requests.length, 1, "what was refused for good is not repeated");
});

test("an answer that is not the server's own is told apart", async (t) => {
  const { url } = await serve(t, ({ path }) => ({
    status: Number(path.slice(5)),
    raw: "<html>",
    headers: { "content-type": "text/html" },
  }));
  const api = asClient(url, { attempts: 1 });

  const codes = {};
  for (const status of [400, 403, 404, 413, 429, 500, 502, 503, 504, 522]) {
    codes[status] = await api.call(String(status)).catch(({ code }) => code);
  }
  assert.deepEqual(codes, {
    400: "INTERNAL",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
    522: "UNAVAILABLE",
  });
});

for (const [status, code] of [
  [409, "CONFLICT"],
  [503, "BUSY"],
  [503, "UNAVAILABLE"],
  [503, "COMMIT_UNKNOWN"],
  [504, "DEADLINE_EXCEEDED"],
]) {
  test(`${code} is repeated under one idempotency key`, async (t) => {
    const { url, requests } = await serve(t, () => (requests.length < 4 ? failure(status, code) : { result: 7 }));

    assert.equal(await asClient(url).f(), 7);
    const keys = requests.map(({ headers }) => headers["idempotency-key"]);
    assert.equal(keys.length, 4);
    assert.match(keys[0], /^[\x21-\x7e]{16,255}$/);
    assert.deepEqual(new Set(keys).size, 1);
  });
}

test("every call has a key of its own", async (t) => {
  const { url, requests } = await serve(t, () => ({ result: 1 }));
  const api = asClient(url);
  await Promise.all([api.f(), api.f(), api.f()]);
  assert.equal(new Set(requests.map(({ headers }) => headers["idempotency-key"])).size, 3);
});

test("without a key only what certainly did not happen is repeated", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => failure(path === "/rpc/CONFLICT" ? 409 : 503, path.slice(5)));
  const api = asClient(url, { attempts: 3 });

  const counts = {};
  for (const code of ["CONFLICT", "BUSY", "UNAVAILABLE", "COMMIT_UNKNOWN"]) {
    const before = requests.length;
    await assert.rejects(api.call(code, [], { idempotencyKey: null }), { code });
    counts[code] = requests.length - before;
  }
  assert.deepEqual(counts, { CONFLICT: 3, BUSY: 3, UNAVAILABLE: 1, COMMIT_UNKNOWN: 1 });
  assert.ok(requests.every(({ headers }) => !("idempotency-key" in headers)));
});

test("what repeating cannot mend is not repeated", async (t) => {
  const codes = {
    FENCED: 503,
    ALREADY_EXISTS: 409,
    ALREADY_APPLIED: 409,
    RATE_LIMITED: 429,
    INTERNAL: 500,
    INVALID_REQUEST: 400,
  };
  const { url, requests } = await serve(t, ({ path }) => failure(codes[path.slice(5)], path.slice(5)));
  const api = asClient(url);
  for (const code of Object.keys(codes)) await assert.rejects(api.call(code), { code });
  assert.equal(requests.length, Object.keys(codes).length);
});

test("a lost connection is an error with a code, and repeated with the key", async (t) => {
  const { url, requests } = await serve(t, (_, response) => {
    if (requests.length < 3) response.destroy();
    else return { result: "there" };
  });
  const api = asClient(url);
  assert.equal(await api.f(), "there");
  assert.equal(new Set(requests.map(({ headers }) => headers["idempotency-key"])).size, 1);

  const nobody = asClient("http://127.0.0.1:1", { attempts: 2 });
  await assert.rejects(nobody.f(), { name: "KontractError", code: "NETWORK", status: 0 });
});

test("no answer in time is an error with a code", async (t) => {
  const { url, requests } = await serve(t, () => undefined);
  await assert.rejects(asClient(url).call("f", [], { timeout: 40, attempts: 2 }), { code: "TIMEOUT" });
  assert.equal(requests.length, 2);
});

test("the caller's signal ends a call, also one that waits, with the caller's reason", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => (path === "/rpc/slow" ? undefined : failure(409, "CONFLICT")));
  const api = asClient(url, { backoff: { first: 60_000, last: 60_000 }, attempts: 100 });

  for (const name of ["slow", "lost"]) {
    const controller = new AbortController();
    const call = api.call(name, [], { signal: controller.signal });
    const before = requests.length;
    while (requests.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort(new Error("enough"));
    await assert.rejects(call, { message: "enough" });
  }
});

test("the server's Retry-After is waited for", async (t) => {
  const at = [];
  const { url } = await serve(t, () => {
    at.push(performance.now());
    return at.length < 2 ? { ...failure(503, "UNAVAILABLE"), headers: { "retry-after": "1" } } : { result: 1 };
  });
  await asClient(url).f();
  assert.ok(at[1] - at[0] > 950, `${at[1] - at[0]} ms`);
});

test("onCall is told what each call cost, failed ones too, and its own errors are its own", async (t) => {
  const timing = 'coord;dur=3.1;desc="3 calls", db;dur=8.4;desc="2 statements", handler;dur=1.0, attempts;desc="2"';
  const headers = {
    "server-timing": timing,
    "x-kontract-txid": "42",
    "x-request-id": "r9",
    "idempotency-replayed": "true",
  };
  const { url } = await serve(t, ({ path }) =>
    path === "/rpc/good" ? { result: 1, headers } : failure(400, "INVALID_REQUEST"),
  );
  const told = [];
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const api = asClient(url, {
    onCall: (info) => {
      told.push(info);
      throw new Error("the page's own");
    },
  });

  assert.equal(await api.good("x"), 1);
  await assert.rejects(api.bad(), { code: "INVALID_REQUEST" });
  const [good, bad] = told;
  assert.deepEqual(
    [good.name, good.args, good.status, good.txid, good.attempts, good.tries],
    ["good", ["x"], 200, 42, 2, 1],
  );
  assert.deepEqual(good.roundTrips, { coordinator: 3, database: 2 });
  assert.deepEqual(good.timing.db, { dur: 8.4, desc: "2 statements" });
  assert.deepEqual([good.requestId, good.replayed, good.error], ["r9", true, null]);
  assert.ok(good.milliseconds > 0);
  assert.deepEqual([bad.status, bad.txid, bad.error.code], [400, null, "INVALID_REQUEST"]);
  assert.deepEqual(reported, ["the page's own", "the page's own"]);
});

test("Server-Timing is parsed as its specification has it", () => {
  assert.deepEqual(parseServerTiming(""), {});
  assert.deepEqual(parseServerTiming("miss, db;dur=53, app;dur=47.2"), {
    miss: {},
    db: { dur: 53 },
    app: { dur: 47.2 },
  });
  assert.deepEqual(parseServerTiming('cache;desc="Cache, \\"Read\\"; x";dur=23.2'), {
    cache: { desc: 'Cache, "Read"; x', dur: 23.2 },
  });
  assert.deepEqual(parseServerTiming(' a ; desc = b ;dur="1" ;x=y , ,c;;dur=2'), { a: { desc: "b", dur: 1 }, c: {} });
  assert.deepEqual(parseServerTiming("a;dur=x;dur=5,=,b"), { a: { dur: 0 } });
});

// --- sessions --------------------------------------------------------------------------------------------------------

test("an anonymous session is opened once, however many calls come first", async (t) => {
  const { url, requests } = await serve(t, ({ path }) =>
    path === "/auth/anonymous" ? { ...granted("a"), status: 201 } : { result: 1 },
  );
  const api = connect({ url, anonymous: true });

  await Promise.all([api.f(), api.g(), api.h()]);
  assert.equal(requests.filter(({ path }) => path.startsWith("/auth")).length, 1);
  assert.deepEqual(new Set(requests.slice(1).map(({ headers }) => headers.authorization)), new Set(["Bearer a"]));
  const { owner, user } = await api.auth.session();
  assert.deepEqual({ owner, user }, { owner: "tenant-1", user: "ann" });
});

test("without a session calls bring no token, and a refusal is an error", async (t) => {
  const { url, requests } = await serve(t, () => failure(401, "UNAUTHORIZED"));
  await assert.rejects(connect({ url }).f(), { code: "UNAUTHORIZED", status: 401 });
  assert.equal(requests.length, 1);
  assert.ok(!("authorization" in requests[0].headers));
});

test("a token that was given is not exchanged for another", async (t) => {
  const { url, requests } = await serve(t, () => failure(401, "UNAUTHORIZED"));
  await assert.rejects(connect({ url, token: "t", anonymous: true }).f(), { message: "UNAUTHORIZED it is" });
  assert.deepEqual(
    requests.map(({ path }) => path),
    ["/rpc/f"],
  );
});

test("a token that is refused is refreshed once and the call repeated", async (t) => {
  const { url, requests } = await serve(t, ({ path, headers, text }) => {
    if (path === "/auth/anonymous") return granted("old");
    if (path === "/auth/refresh")
      return text === '{"refresh_token":"refresh-old"}' ? granted("new") : failure(401, "UNAUTHORIZED");
    return headers.authorization === "Bearer new" ? { result: 1 } : failure(401, "UNAUTHORIZED");
  });
  const api = connect({ url });
  await api.auth.anonymous();

  assert.deepEqual(await Promise.all([api.f(), api.f()]), [1, 1]);
  assert.equal(requests.filter(({ path }) => path === "/auth/refresh").length, 1);
});

test("a new token that is refused, too, ends the matter", async (t) => {
  const { url, requests } = await serve(t, ({ path }) =>
    path.startsWith("/auth") ? granted(`t${requests.length}`) : failure(401, "UNAUTHORIZED"),
  );
  await assert.rejects(connect({ url, anonymous: true }).f(), { code: "UNAUTHORIZED" });
  assert.deepEqual(
    requests.map(({ path }) => path),
    ["/auth/anonymous", "/rpc/f", "/auth/refresh", "/rpc/f"],
  );
});

test("a token that is about to expire is refreshed before it is used", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => {
    if (path === "/auth/login") return granted("short", 30);
    return path === "/auth/refresh" ? granted("long") : { result: 1 };
  });
  const api = connect({ url });
  await api.auth.login("ann", "a long password");
  await api.f();
  await api.f();
  assert.deepEqual(
    requests.map(({ path }) => path),
    ["/auth/login", "/auth/refresh", "/rpc/f", "/rpc/f"],
  );
  assert.equal(requests[2].headers.authorization, "Bearer long");
});

test("a session that cannot be refreshed ends; anonymous clients begin a new one", async (t) => {
  const { url, requests } = await serve(t, ({ path, headers }) => {
    if (path === "/auth/anonymous") return granted("second");
    if (path === "/auth/login") return granted("first");
    return headers.authorization === "Bearer second" ? { result: 1 } : failure(401, "UNAUTHORIZED");
  });
  const known = connect({ url });
  await known.auth.login("ann", "a long password");
  await assert.rejects(known.f(), { code: "UNAUTHORIZED", message: /sign in again/ });
  assert.equal(await known.auth.session(), null);

  const anyone = connect({ url, anonymous: true });
  await anyone.auth.login("ann", "a long password");
  assert.equal(await anyone.f(), 1);
  assert.ok(requests.length > 0);
});

test("a server that cannot be asked does not end a session", async (t) => {
  const { url } = await serve(t, ({ path }) =>
    path === "/auth/login" ? granted("t", 30) : failure(503, "UNAVAILABLE"),
  );
  const api = connect({ url, attempts: 1, anonymous: true });
  await api.auth.login("ann", "a long password");
  await assert.rejects(api.f(), { code: "UNAVAILABLE" });
  assert.equal((await api.auth.session()).token, "t");
});

test("clients that share a storage refresh one at a time, and the second takes what the first got", async (t) => {
  let refreshes = 0;
  const release = later();
  const { url } = await serve(t, async ({ path, headers }) => {
    if (path === "/auth/login") return granted("old");
    if (path === "/auth/refresh") {
      refreshes += 1;
      await release.promise;
      return granted("new");
    }
    if (headers.authorization === "Bearer new") return { result: 1 };
    release.resolve();
    return failure(401, "UNAUTHORIZED");
  });
  let last = Promise.resolve();
  const storage = {
    ...memoryStorage(),
    exclusive: (work) => (last = last.then(work, work)),
  };
  const [one, two] = [connect({ url, storage }), connect({ url, storage })];
  await one.auth.login("ann", "a long password");
  assert.deepEqual(await Promise.all([one.f(), two.f()]), [1, 1]);
  assert.equal(refreshes, 1);
});

test("accounts: register, link, me and logout are what the server offers", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => {
    if (path === "/auth/logout") return { status: 204, raw: "" };
    return path === "/auth/me" ? { user: "ann" } : granted(path);
  });
  const api = connect({ url });

  await api.auth.anonymous();
  await api.auth.link("ann", "a long password");
  assert.deepEqual(await api.auth.me(), { user: "ann" });
  await api.auth.refresh();
  await api.auth.logout();
  await api.auth.logout();
  await api.auth.register("bob", "a long password");
  assert.deepEqual(
    requests.map(({ method, path, headers }) => `${method} ${path} ${headers.authorization ?? ""}`.trim()),
    [
      "POST /auth/anonymous",
      "POST /auth/link Bearer /auth/anonymous",
      "GET /auth/me Bearer /auth/link",
      "POST /auth/refresh",
      "POST /auth/logout Bearer /auth/refresh",
      "POST /auth/register",
    ],
  );
  assert.equal(requests[1].text, '{"name":"ann","password":"a long password"}');
});

test("logging out of a session that is over already is no error", async (t) => {
  const { url } = await serve(t, ({ path }) => (path === "/auth/login" ? granted("t") : failure(401, "UNAUTHORIZED")));
  const api = connect({ url });
  await api.auth.login("ann", "a long password");
  await api.auth.logout();
  assert.equal(await api.auth.session(), null);
});
