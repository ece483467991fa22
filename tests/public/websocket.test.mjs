// Change streams over a WebSocket: the same as over an answer that does not end, and what is different about it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../public/kontract.js";
import { failure, granted, serveSockets } from "./server.mjs";

const ready = (at) => ({ event: "ready", id: `g1-${at}`, tables: ["tasks"], denied: ["secrets"] });

/** A change of transaction `txid`; `last`: the one that carries the id. */
function change(txid, id = String(txid), last = true) {
  const data = { type: "insert", table: "tasks", id, data: { id }, txid };
  return { event: "change", ...(last ? { id: `g1-${txid}` } : {}), change: data };
}

const query = ({ path }) => new URLSearchParams(path.split("?")[1]);

/** The server; it gives tickets t1, t2, ..., answers /auth, and everything else with `plain`. */
function server(t, converse, { plain, auth = () => granted("t"), refuse = () => null } = {}) {
  let tickets = 0;
  const answer = (request, response) => {
    if (request.path.startsWith("/auth")) return auth(request);
    if (request.path !== "/stream/ticket") return plain(request, response);
    return refuse(request) ?? { status: 201, ticket: `t${(tickets += 1)}`, expires_in: 60 };
  };
  return serveSockets(t, answer, converse);
}

/** Opens a stream; `until(condition)` waits until what was told makes it true. */
function listen(t, api, how = {}) {
  const told = { transactions: [], states: [], resets: [], readies: [], errors: [] };
  let check = () => {};
  const note = (kind, value) => {
    told[kind].push(value);
    check();
  };
  const stream = api.stream(["tasks"], {
    transport: "websocket",
    onTransaction: (changes, at) => note("transactions", [changes.map(({ id }) => id), at]),
    onReady: (answer) => note("readies", answer),
    onReset: (reason) => note("resets", reason),
    onState: (state, { error }) => {
      if (error) note("errors", error.code);
      note("states", state);
    },
    ...how,
  });
  t.after(() => stream.close());
  const until = (condition) =>
    new Promise((resolve) => {
      check = () => condition(told) && resolve();
      check();
    });
  return { ...told, stream, until };
}

const client = (url, options = {}) => connect({ url, token: "t", ...options });

test("a ticket is asked for with the token, and stands in the URL for it", async (t) => {
  const { url, requests, upgrades } = await server(t, (_, __, peer) => peer.send(ready(1)));
  const seen = listen(t, client(url), { ids: ["a b", "c"], since: "g1-0" });
  await seen.until(({ readies }) => readies.length === 1);

  assert.deepEqual(
    requests.map(({ method, path, headers }) => [method, path, headers.authorization]),
    [["POST", "/stream/ticket", "Bearer t"]],
  );
  const [{ path, headers }] = upgrades;
  assert.equal(path, "/stream?table=tasks&id=a+b&id=c&ticket=t1&since=g1-0");
  assert.ok(!("authorization" in headers));
  assert.deepEqual(seen.readies, [{ tables: ["tasks"], denied: ["secrets"] }]);
  assert.deepEqual(seen.states, ["connecting", "open"]);
});

test("a transaction is delivered as a whole, and a lost connection goes on before it, with a new ticket", async (t) => {
  const { url, upgrades } = await server(t, (number, request, peer) => {
    if (number === 1) {
      peer.send(ready(1), change(2, "2a", false), { event: "heartbeat" }, change(2, "2b"), change(3, "3a", false));
      peer.end();
      return;
    }
    assert.equal(query(request).get("since"), "g1-2");
    assert.equal(query(request).get("ticket"), "t2");
    peer.send(ready(2), change(3, "3a", false), change(3, "3b"));
  });
  const seen = listen(t, client(url));
  await seen.until(({ transactions }) => transactions.length === 2);
  assert.deepEqual(seen.transactions, [
    [["2a", "2b"], { txid: 2, position: "g1-2" }],
    [["3a", "3b"], { txid: 3, position: "g1-3" }],
  ]);
  assert.deepEqual(seen.states, ["connecting", "open", "waiting", "connecting", "open"]);
  assert.equal(seen.stream.position, "g1-3");
  assert.equal(upgrades.length, 2);
});

test("a reset is told, half a transaction before it forgotten, and the new position used", async (t) => {
  const { url } = await server(t, (_, __, peer) =>
    peer.send(change(2, "half", false), { event: "reset", reason: "too old" }, ready(5), change(6, "new")),
  );
  const seen = listen(t, client(url), { since: "g1-1" });
  await seen.until(({ transactions }) => transactions.length === 1);
  assert.deepEqual(seen.resets, ["too old"]);
  assert.deepEqual(seen.transactions[0][0], ["new"]);
});

test("where no WebSocket can be opened the stream does without, and tries again later", async (t) => {
  let open = null;
  const converse = (number, _, peer) => (number === 1 ? false : peer.send(ready(2), change(3)));
  const { url, upgrades } = await server(t, converse, {
    plain: (_, response) => {
      open = response.writeHead(200, { "content-type": "text/event-stream" });
      open.write(`retry: 5\n\nevent: ready\nid: g1-1\ndata: {"tables":["tasks"],"denied":[]}\n\n`);
      open.write(`id: g1-2\ndata: ${JSON.stringify(change(2).change)}\n\n`);
    },
  });
  const seen = listen(t, client(url));
  await seen.until(({ transactions }) => transactions.length === 1);
  assert.equal(upgrades.length, 1);
  open.destroy();
  await seen.until(({ transactions }) => transactions.length === 2);
  assert.equal(query(upgrades[1]).get("since"), "g1-2");
  assert.deepEqual(seen.transactions.flatMap(([ids]) => ids), ["2", "3"]);
});

test("what is refused for good closes the stream, though a WebSocket does not say why it was", async (t) => {
  const { url } = await server(t, () => false, { plain: () => failure(400, "INVALID_REQUEST") });
  const seen = listen(t, client(url));
  await seen.until(({ states }) => states.at(-1) === "closed");
  assert.equal(seen.stream.error.code, "INVALID_REQUEST");
});

test("without a token there is no ticket: the server says what is missing", async (t) => {
  const { url, requests, upgrades } = await server(t, () => false, { plain: () => failure(401, "UNAUTHORIZED") });
  const seen = listen(t, connect({ url }));
  await seen.until(({ states }) => states.at(-1) === "closed");
  assert.equal(seen.stream.error.code, "UNAUTHORIZED");
  assert.deepEqual([requests.length, upgrades.length], [1, 0]);
});

test("a token that is refused is renewed, and so is one whose end ends the stream", async (t) => {
  const tokens = [];
  const { url } = await server(
    t,
    (number, _, peer) => {
      peer.send(ready(1));
      if (number === 1) peer.send({ event: "end", reason: "expired" });
      if (number === 1) peer.end();
      else peer.send(change(2));
    },
    {
      auth: () => granted(`token-${tokens.length}`),
      refuse: ({ headers }) => (tokens.push(headers.authorization) === 1 ? failure(401, "UNAUTHORIZED") : null),
    },
  );
  const seen = listen(t, connect({ url, anonymous: true }));
  await seen.until(({ transactions }) => transactions.length === 1);
  assert.deepEqual(tokens, ["Bearer token-0", "Bearer token-1", "Bearer token-2"]);
});

test("a connection that has fallen silent is given up", async (t) => {
  const { url, upgrades } = await server(t, (_, __, peer) => peer.send(ready(1)));
  const seen = listen(t, client(url), { silence: 100 });
  await seen.until(({ readies }) => readies.length === 2);
  assert.equal(upgrades.length, 2);
  assert.equal(seen.errors[0], "NETWORK");
});

test("close() says goodbye, and nothing is delivered after it", async (t) => {
  let gone;
  const { url } = await server(t, (_, __, peer) => {
    gone = peer.gone;
    peer.send(ready(1), change(2), change(3), change(4));
  });
  const seen = listen(t, client(url), {
    onTransaction([{ id }]) {
      seen.transactions.push(id);
      seen.stream.close();
    },
  });
  await seen.until(({ states }) => states.at(-1) === "closed");
  assert.deepEqual(seen.transactions, ["2"]);
  await gone;
});

test("an iterator that does not keep up leaves, comes back, and misses nothing", async (t) => {
  const MOST = 3_000;
  let gone;
  const left = new Promise((resolve) => (gone = resolve));
  const { url, upgrades } = await server(t, (_, request, peer) => {
    peer.gone.then(gone);
    const since = Number((query(request).get("since") ?? "g1-0").slice(3));
    peer.send(ready(since), ...Array.from({ length: MOST - since }, (_, index) => change(since + index + 1)));
  });
  const stream = client(url).stream("tasks", { transport: "websocket" });
  t.after(() => stream.close());
  await left;
  const seen = [];
  for await (const { txid } of stream) {
    seen.push(txid);
    if (txid === MOST) break;
  }
  assert.deepEqual(seen, Array.from({ length: MOST }, (_, index) => index + 1));
  assert.ok(upgrades.length > 1, "it came back");
});

test("another transport is none", () => {
  assert.throws(() => client("http://127.0.0.1").stream("tasks", { transport: "pigeon" }), /"sse" or "websocket"/);
});
