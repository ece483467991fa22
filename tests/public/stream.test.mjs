// Change streams: whole transactions, each once and in order, whatever happens to connections, tokens and positions.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../public/kontract.js";
import { failure, granted, later, serve } from "./server.mjs";

const READY = 'retry: 5\n\nevent: ready\nid: g1-1\ndata: {"tables":["tasks"],"denied":["secrets"]}\n\n';

/** A change of transaction `txid` as it stands in the stream; `last`: the one that carries the id. */
function change(txid, id = String(txid), last = true) {
  const data = JSON.stringify({ type: "insert", table: "tasks", id, data: { id }, txid });
  return `${last ? `id: g1-${txid}\n` : ""}data: ${data}\n\n`;
}

/** A server of streams: `script(number, request, response)` plays connection `number`, counted from 1. */
async function streams(t, script, auth = () => granted("t")) {
  let number = 0;
  return serve(t, (request, response) => {
    if (request.path.startsWith("/auth")) return auth(request);
    const answer = script((number += 1), request, () => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      return response;
    });
    return answer;
  });
}

/** Opens a stream whose handlers write down what they are told; `until(n)` waits for the n-th entry of a kind. */
function listen(t, api, how = {}) {
  const told = { transactions: [], changes: [], states: [], resets: [], readies: [], errors: [] };
  let check = () => {};
  const note = (kind, value) => {
    told[kind].push(value);
    check();
  };
  const stream = api.stream(["tasks"], {
    onTransaction: (changes, at) => note("transactions", [changes.map(({ id }) => id), at]),
    onEvent: ({ id }) => note("changes", id),
    onReady: (answer) => note("readies", answer),
    onReset: (reason) => note("resets", reason),
    onState: (state, { error }) => {
      if (error) note("errors", error.code);
      note("states", state);
    },
    ...how,
  });
  t.after(() => stream.close());
  const until = (kind, count) =>
    new Promise((resolve) => {
      check = () => told[kind].length >= count && resolve();
      check();
    });
  return { ...told, stream, until };
}

const client = (url, options = {}) => connect({ url, token: "t", ...options });

test("the tables, the token and the position are asked for", async (t) => {
  const { url, requests } = await streams(t, (_, __, open) => void open().write(READY));
  const seen = listen(t, client(url), { ids: ["a b", "c"], since: "g1-0" });
  await seen.until("readies", 1);

  const [{ path, headers }] = requests;
  assert.equal(path, "/stream?table=tasks&id=a+b&id=c");
  assert.deepEqual(
    [headers.authorization, headers.accept, headers["last-event-id"]],
    ["Bearer t", "text/event-stream", "g1-0"],
  );
  assert.deepEqual(seen.readies, [{ tables: ["tasks"], denied: ["secrets"] }]);
  assert.deepEqual(seen.states, ["connecting", "open"]);
  seen.stream.close();
  await seen.until("states", 3);
  assert.deepEqual(seen.states, ["connecting", "open", "closed"]);
  assert.deepEqual(seen.errors, []);
});

test("a transaction is delivered as a whole, when its id has come", async (t) => {
  const { url } = await streams(t, async (_, __, open) => {
    const response = open();
    response.write(READY + change(2, "a", false) + change(2, "b", false));
    response.write(change(2, "c") + change(3, "d"));
  });
  const seen = listen(t, client(url));
  await seen.until("transactions", 2);
  assert.deepEqual(seen.transactions, [
    [["a", "b", "c"], { txid: 2, position: "g1-2" }],
    [["d"], { txid: 3, position: "g1-3" }],
  ]);
  await seen.until("changes", 4);
  assert.deepEqual(seen.changes, ["a", "b", "c", "d"]);
  assert.equal(seen.stream.position, "g1-3");
});

test("a connection that is lost within a transaction goes on before it: nothing is lost or repeated", async (t) => {
  const { url, requests } = await streams(t, (number, { headers }, open) => {
    const response = open();
    if (number === 1) {
      response.write(READY + change(2) + change(3, "3a", false) + change(3, "3b", false));
      setTimeout(() => response.destroy(), 5);
      return;
    }
    assert.equal(headers["last-event-id"], "g1-2");
    response.write(`event: ready\nid: g1-2\ndata: {"tables":["tasks"],"denied":[]}\n\n`);
    response.write(change(3, "3a", false) + change(3, "3b", false) + change(3, "3c"));
  });
  const seen = listen(t, client(url));
  await seen.until("transactions", 2);
  assert.deepEqual(seen.changes.slice(0, 4), ["2", "3a", "3b", "3c"]);
  assert.deepEqual(seen.states, ["connecting", "open", "waiting", "connecting", "open"]);
  assert.equal(requests.length, 2);
});

test("cut at every byte, the stream delivers every transaction once and in order", async (t) => {
  const whole = [2, 3, 4, 5, 6].map((txid) => [txid, change(txid, `é${txid}a`, false) + change(txid, `🐍${txid}b`)]);
  const bytesAfter = (txid) =>
    Buffer.from(
      whole
        .filter(([number]) => number > txid)
        .map(([, text]) => text)
        .join(""),
    );
  let cut = 0;
  const { url } = await streams(t, (_, { headers }, open) => {
    const at = Number((headers["last-event-id"] ?? "g1-1").slice(3));
    const rest = bytesAfter(at);
    const ready = Buffer.from(`retry: 0\nevent: ready\nid: g1-${at}\ndata: {"tables":["tasks"],"denied":[]}\n\n`);
    const response = open();
    cut += 7;
    const sent = Buffer.concat([ready, rest]).subarray(0, ready.length + (cut % (rest.length + 50)));
    response.end(sent);
  });
  const seen = listen(t, client(url));
  await seen.until("transactions", 5);
  assert.deepEqual(
    seen.transactions.map(([, { txid }]) => txid),
    [2, 3, 4, 5, 6],
  );
  await seen.until("changes", 10);
  assert.deepEqual(
    seen.changes,
    [2, 3, 4, 5, 6].flatMap((txid) => [`é${txid}a`, `🐍${txid}b`]),
  );
});

test("a position without changes is kept, too", async (t) => {
  const { url, requests } = await streams(t, (number, _, open) => {
    const response = open();
    response.write(READY);
    if (number === 1) response.end("id: g1-9\n\n");
  });
  const seen = listen(t, client(url));
  await seen.until("readies", 2);
  assert.equal(requests[1].headers["last-event-id"], "g1-9");
});

test("a reset is told, half a transaction before it forgotten, and the new position used", async (t) => {
  const { url } = await streams(t, (_, __, open) => {
    const response = open();
    response.write(change(2, "half", false));
    response.write('event: reset\ndata: {"reason":"too old"}\n\n');
    response.write('event: ready\nid: g2-5\ndata: {"tables":["tasks"],"denied":[]}\n\n');
    response.write(change(6, "new"));
  });
  const seen = listen(t, client(url), { since: "g1-1" });
  await seen.until("transactions", 1);
  assert.deepEqual(seen.resets, ["too old"]);
  assert.deepEqual(seen.transactions[0][0], ["new"]);
});

test("a server that is away is asked again, with growing pauses, until it is there", async (t) => {
  const { url, requests } = await streams(t, (number, _, open) => {
    if (number === 1) return void open().end(READY);
    if (number < 4) return failure(503, "UNAVAILABLE");
    if (number < 5) return { raw: "<html>", status: 502, headers: { "content-type": "text/html" } };
    open().write(READY);
  });
  const seen = listen(t, client(url));
  await seen.until("readies", 2);
  assert.equal(requests.length, 5);
  assert.deepEqual(seen.errors, ["NETWORK", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"]);
});

for (const [status, code] of [
  [400, "INVALID_REQUEST"],
  [403, "FORBIDDEN"],
  [404, "NOT_FOUND"],
  [401, "UNAUTHORIZED"],
]) {
  test(`${code} closes the stream for good`, async (t) => {
    const { url, requests } = await streams(t, () => failure(status, code));
    const seen = listen(t, client(url));
    await seen.until("states", 2);
    assert.deepEqual(seen.states, ["connecting", "closed"]);
    assert.equal(seen.stream.error.code, code);
    assert.equal(requests.length, 1);
  });
}

test("an answer that is no event stream closes the stream", async (t) => {
  const { url } = await streams(t, () => ({ raw: "<html>", headers: { "content-type": "text/html" } }));
  const seen = listen(t, client(url));
  await seen.until("states", 2);
  assert.equal(seen.stream.error.message, "the server's answer is not a stream");
});

test("a token that is refused is renewed, and another refused one ends the matter", async (t) => {
  const { url, requests } = await streams(
    t,
    () => failure(401, "UNAUTHORIZED"),
    () => granted(`t${requests.length}`),
  );
  const seen = listen(t, connect({ url, anonymous: true }));
  await seen.until("errors", 1);
  assert.equal(seen.stream.error.code, "UNAUTHORIZED");
  assert.deepEqual(
    requests.map(({ path }) => path.split("?")[0]),
    ["/auth/anonymous", "/stream", "/auth/refresh", "/stream"],
  );
});

test("when the token expires the server says so, and the stream goes on with a new one", async (t) => {
  const { url, requests } = await streams(
    t,
    (number, _, open) => {
      const response = open();
      response.write(READY);
      if (number === 1) response.end('event: end\ndata: {"reason":"expired"}\n\n');
      else response.write(change(2));
    },
    ({ path }) => granted(path),
  );
  const seen = listen(t, connect({ url, anonymous: true }));
  await seen.until("transactions", 1);
  const tokens = requests.filter(({ path }) => path.startsWith("/stream")).map(({ headers }) => headers.authorization);
  assert.deepEqual(tokens, ["Bearer /auth/anonymous", "Bearer /auth/refresh"]);
});

test("a stream whose session was ended closes, unless there may be another session", async (t) => {
  const { url } = await streams(
    t,
    (_, __, open) => void open().end(`${READY}event: end\ndata: {"reason":"session"}\n\n`),
    ({ path }) => (path === "/auth/login" ? granted("t") : failure(401, "UNAUTHORIZED")),
  );
  const api = connect({ url });
  await api.auth.login("ann", "a long password");
  const seen = listen(t, api);
  await seen.until("states", 3);
  assert.deepEqual(seen.states, ["connecting", "open", "closed"]);
  assert.equal(seen.stream.error.code, "UNAUTHORIZED");
});

test("a connection that has fallen silent is given up; a heartbeat keeps it", async (t) => {
  let beats = 0;
  const { url, requests } = await streams(t, (number, _, open) => {
    const response = open();
    response.write(READY);
    if (number > 1) return;
    const timer = setInterval(() => {
      if ((beats += 1) > 12)
        clearInterval(timer); // 12 heartbeats are twice as long as silence may be
      else response.write(": heartbeat\n\n");
    }, 50);
  });
  const seen = listen(t, client(url), { silence: 300 });
  await seen.until("readies", 2);
  assert.ok(beats >= 12);
  assert.equal(requests.length, 2);
  assert.deepEqual(seen.errors, ["NETWORK"]);
});

test("nothing is delivered after close(), not even what has come already", async (t) => {
  const { url } = await streams(t, (_, __, open) => void open().write(READY + change(2) + change(3) + change(4)));
  const seen = listen(t, client(url), { onTransaction: () => seen.stream.close() });
  await seen.until("states", 3);
  assert.deepEqual(seen.changes, ["2"]);
  assert.equal(seen.stream.state, "closed");
});

test("a signal closes a stream, before it begins as well", async (t) => {
  const { url, requests } = await streams(t, (_, __, open) => void open().write(READY));
  const controller = new AbortController();
  const seen = listen(t, client(url), { signal: controller.signal });
  await seen.until("readies", 1);
  controller.abort();
  await seen.until("states", 3);
  assert.equal(seen.stream.state, "closed");

  const never = listen(t, client(url), { signal: controller.signal });
  await never.until("states", 1);
  assert.deepEqual(never.states, ["closed"]);
  assert.equal(requests.length, 1);
});

test("a handler that throws stops neither the stream nor the others", async (t) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const { url } = await streams(t, (_, __, open) => void open().write(READY + change(2) + change(3)));
  const seen = listen(t, client(url), {
    onTransaction: () => {
      throw new Error("oops");
    },
  });
  await seen.until("changes", 2);
  assert.deepEqual(reported, ["oops", "oops"]);
});

test("changes can be iterated; leaving the loop closes the stream", async (t) => {
  const gone = later();
  const { url } = await streams(t, (_, __, open) => {
    const response = open();
    response.on("close", gone.resolve);
    response.write(READY + change(2, "a", false) + change(2, "b"));
    response.write('event: reset\ndata: {"reason":"too old"}\n\nevent: ready\nid: g2-1\ndata: {}\n\n');
    response.write(change(3, "c"));
  });
  const stream = client(url).stream("tasks");
  await new Promise((resolve) => setTimeout(resolve, 50)); // what comes before the loop begins waits for it
  const seen = [];
  for await (const one of stream) {
    seen.push(one.type === "reset" ? `reset: ${one.reason}` : one.id);
    if (one.id === "c") break;
  }
  assert.deepEqual(seen, ["a", "b", "reset: too old", "c"]);
  assert.equal(stream.position, "g2-1", "the loop was left within transaction 3, so that one is not done with");
  await gone.promise;
});

test("an iterator's position moves with its loop", async (t) => {
  const { url } = await streams(t, (_, __, open) => void open().write(READY + change(2) + change(3)));
  const stream = client(url).stream("tasks");
  const positions = [];
  for await (const { txid } of stream) {
    positions.push([txid, stream.position]);
    if (txid === 3) break;
  }
  assert.deepEqual(positions, [
    [2, "g1-1"],
    [3, "g1-2"],
  ]);
});

test("an iterator ends with the error that closed the stream", async (t) => {
  const { url } = await streams(t, () => failure(403, "FORBIDDEN"));
  await assert.rejects(
    (async () => {
      for await (const _ of client(url).stream("tasks"));
    })(),
    { code: "FORBIDDEN" },
  );
});

test("an iterator that does not keep up makes the server wait", async (t) => {
  const big = "x".repeat(1000);
  let written = 0;
  const { url } = await streams(t, (_, __, open) => {
    const response = open();
    response.write(READY);
    const write = () => {
      while (written < 100_000) {
        written += 1;
        if (!response.write(change(written + 1, `${written}-${big}`))) {
          response.once("drain", write);
          return;
        }
      }
    };
    write();
  });
  const stream = client(url).stream("tasks");
  t.after(() => stream.close());
  let before;
  do {
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 500));
  } while (written === 0 || written > before);
  assert.ok(before < 50_000, `${before} changes were taken while nobody read any`);
  let count = 0;
  for await (const { txid } of stream) {
    assert.equal(txid, (count += 1) + 1);
    if (count === before + 2000) break;
  }
});
