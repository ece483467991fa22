// Integers that a JavaScript number cannot hold: never rounded, on no way in or out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KontractError, connect } from "../../public/kontract.js";
import { decode, encode } from "../../public/kontract/json.js";
import { serve, serveSockets } from "./server.mjs";

const BIG = "9007199254740993";

test("integers that are not safe are refused, or BigInt; everything else is as ever", () => {
  const text = `{"a": [${BIG}, -${BIG}, 9007199254740991, 1e20, 12345678901234567890.0], "s": "${BIG}", "t": "\\"${BIG}"}`;
  assert.throws(() => decode(text), (error) => error instanceof KontractError && error.code === "UNSAFE_INTEGER");
  assert.deepEqual(decode(text, true), {
    a: [9007199254740993n, -9007199254740993n, 9007199254740991, 1e20, 12345678901234567890.0],
    s: BIG,
    t: `"${BIG}`,
  });
  for (const safe of ["9007199254740991", `"${BIG}"`, `{"${BIG}": 1}`, "[0.12345678901234567]", "1234567890123456e3"]) {
    assert.deepEqual(decode(safe), JSON.parse(safe));
  }
  assert.throws(() => decode(`[${BIG}`, true), SyntaxError);
});

test("a BigInt is written as an integer, and a number that was rounded already is refused", () => {
  assert.equal(encode([9007199254740993n, -1n, "1", { a: 0n }, 1.5, 1e300]), `[${BIG},-1,"1",{"a":0},1.5,1e+300]`);
  assert.equal(encode(["9", null, undefined]), JSON.stringify(["9", null, undefined]));
  assert.throws(() => encode([2 ** 53]), /pass a BigInt/);
  assert.throws(() => encode({ a: -(2 ** 60) }), TypeError);
});

test("a call that answers with such an integer fails, or gives it as it is and sends it back", async (t) => {
  const { url, requests } = await serve(t, () => ({ raw: `{"result": {"n": ${BIG}}}` }));
  await assert.rejects(
    connect({ url, token: "t" }).count(),
    (error) => error.code === "UNSAFE_INTEGER" && error.message.includes(BIG) && error.message.includes("bigint: true"),
  );
  assert.equal(requests.length, 1, "asking again would not change it");

  const api = connect({ url, token: "t", bigint: true });
  const { n } = await api.count();
  assert.equal(n, 9007199254740993n);
  await api.keep(n);
  assert.equal(requests.at(-1).text, `[${BIG}]`);
});

const change = `{"type": "insert", "table": "tasks", "id": "a", "data": {"n": ${BIG}}, "txid": 7}`;

test("a stream ends with an error, or goes on with BigInt", async (t) => {
  const { url } = await serve(t, (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('event: ready\nid: g1-1\ndata: {"tables":["tasks"],"denied":[]}\n\n');
    response.write(`id: g1-7\ndata: ${change}\n\n`);
  });
  await assert.rejects(async () => {
    for await (const _ of connect({ url, token: "t" }).stream("tasks"));
  }, { code: "UNSAFE_INTEGER" });

  for await (const { data } of connect({ url, token: "t", bigint: true }).stream("tasks")) {
    assert.equal(data.n, 9007199254740993n);
    break;
  }
});

test("a stream over a WebSocket likewise", async (t) => {
  const { url } = await serveSockets(
    t,
    () => ({ status: 201, ticket: "t1", expires_in: 60 }),
    (_, __, peer) => {
      peer.send({ event: "ready", id: "g1-1", tables: ["tasks"], denied: [] });
      peer.sendText(`{"event": "change", "id": "g1-7", "change": ${change}}`);
    },
  );
  const options = { transport: "websocket" };
  await assert.rejects(async () => {
    for await (const _ of connect({ url, token: "t" }).stream("tasks", options));
  }, { code: "UNSAFE_INTEGER" });

  for await (const { data } of connect({ url, token: "t", bigint: true }).stream("tasks", options)) {
    assert.equal(data.n, 9007199254740993n);
    break;
  }
});
