// The client's side of raystream against the published vectors (docs/reference/raystream-vectors.json), byte for byte.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Handshake, Session, keyPairOf } from "../../public/kontract/raystream.js";

const vectors = JSON.parse(readFileSync(new URL("../../docs/reference/raystream-vectors.json", import.meta.url)));
const conversation = vectors.conversations.find(({ suite }) => suite === "Noise_NK_25519_AESGCM_SHA256");

const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
const hex = (data) => Buffer.from(data).toString("hex");
const text = (data) => Buffer.from(data).toString("latin1");
const serverKey = bytes(vectors.deployment.static_public);

async function greet() {
  // The public half stands in the hello: after the frame's header and the suite.
  const own = await keyPairOf(bytes(conversation.client_ephemeral_private), bytes(conversation.hello).subarray(17, 49));
  const handshake = await Handshake.start(serverKey, own);
  const hello = await handshake.hello(bytes(conversation.token));
  return { handshake, hello };
}

/** The session of the vectors, and a clock to set. */
async function converse() {
  const clock = { now: 0 };
  const session = new Session(bytes(conversation.session_secret), bytes(conversation.ticket), 600_000, () => clock.now);
  return { session, clock };
}

test("the hello is the published one", async () => {
  assert.equal(hex((await greet()).hello), conversation.hello);
});

test("the welcome is opened: secret, ticket and lifetime are the published ones", async () => {
  const session = await (await greet()).handshake.finish(bytes(conversation.welcome));
  assert.equal(await session.id(), conversation.session_id);
  assert.equal(session.lifetime, conversation.expires - conversation.now);
  const { message } = await session.seal({ name: "f", headers: {}, body: "[]" });
  assert.equal(hex(message.subarray(2, 2 + conversation.ticket.length / 2)), conversation.ticket);
});

test("requests are the published ones", async () => {
  const { session, clock } = await converse();
  for (const request of conversation.requests) {
    clock.now = request.elapsed;
    const call = {
      name: request.function,
      headers: request.headers,
      body: Buffer.from(request.body, "hex").toString(),
    };
    const { sequence, message } = await session.seal(call);
    assert.equal(sequence, request.sequence);
    assert.equal(hex(message), request.message);
  }
});

test("responses are opened, whichever server they come from", async () => {
  const { session } = await converse();
  for (const request of conversation.requests) {
    for (const response of request.responses) {
      const reply = await session.open(request.sequence, bytes(response.message));
      assert.equal(reply.status, request.status);
      assert.equal(hex(reply.bytes), request.response_body);
      for (const [name, value] of Object.entries(request.response_headers)) assert.equal(reply.header(name), value);
      assert.equal(reply.header("set-cookie"), null);
    }
  }
});

test("no bit of a welcome or a response can be changed, and none may be missing", async () => {
  const { session } = await converse();
  const [request] = conversation.requests;
  const good = bytes(request.responses[0].message);
  const refused = { code: "RAYSTREAM" };
  for (let at = 0; at < good.length; at += 1) {
    const bad = good.slice();
    bad[at] ^= 1 << (at % 8);
    await assert.rejects(session.open(request.sequence, bad), refused, `byte ${at}`);
  }
  await assert.rejects(session.open(request.sequence, good.subarray(0, -1)), refused);
  await assert.rejects(session.open(request.sequence, new Uint8Array()), refused);
  await assert.rejects(session.open(request.sequence + 1, good), refused, "the answer to another request");

  const welcome = bytes(conversation.welcome);
  for (let at = 0; at < welcome.length; at += 7) {
    const bad = welcome.slice();
    bad[at] ^= 0x80;
    await assert.rejects((await greet()).handshake.finish(bad), refused, `byte ${at}`);
  }
});

test("an answer that was sealed for another session is refused", async () => {
  const [request] = conversation.requests;
  const other = new Session(bytes("ab".repeat(32)), bytes(conversation.ticket), 600_000);
  await assert.rejects(other.open(request.sequence, bytes(request.responses[0].message)), { code: "RAYSTREAM" });
});

test("a server key of small order is refused", async () => {
  const handshake = await Handshake.start(new Uint8Array(32));
  await assert.rejects(handshake.hello(new Uint8Array()), { code: "RAYSTREAM" });
});

test("numbers are given in order and once, also to calls that are sealed at the same time", async () => {
  const { session } = await converse();
  const sealed = await Promise.all(
    Array.from({ length: 50 }, () => session.seal({ name: "f", headers: {}, body: "[]" })),
  );
  assert.deepEqual(
    sealed.map(({ sequence }) => sequence),
    Array.from({ length: 50 }, (_, index) => index + 1),
  );
  assert.equal(new Set(sealed.map(({ message }) => text(message))).size, 50);
});

test("a session is given up before its ticket ends", async () => {
  const { session, clock } = await converse();
  assert.equal(session.nearlyOver, false);
  clock.now = 600_000 - 30_001;
  assert.equal(session.nearlyOver, false);
  clock.now = 600_000 - 29_999;
  assert.equal(session.nearlyOver, true);
});

test("headers that HTTP cannot carry are not sent", async () => {
  const { session } = await converse();
  await assert.rejects(session.seal({ name: "f", headers: { "idempotency-key": "✓" }, body: "[]" }), TypeError);
});
