// The parser against the cases of the HTML standard, section 9.2.6, and against every way to cut a stream into chunks.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStreamParser } from "../../public/kontract/sse.js";

const utf8 = new TextEncoder();

/** What a parser makes of chunks (strings or bytes): events as [type, data, lastEventId], ids, retries. */
export function parse(chunks, lastEventId = "") {
  const seen = { events: [], ids: [], retries: [] };
  const parser = new EventStreamParser(
    {
      onEvent: (event) => seen.events.push([event.type, event.data, event.lastEventId]),
      onId: (id) => seen.ids.push(id),
      onRetry: (milliseconds) => seen.retries.push(milliseconds),
    },
    lastEventId,
  );
  for (const chunk of chunks) parser.push(typeof chunk === "string" ? utf8.encode(chunk) : chunk);
  return { ...seen, lastEventId: parser.lastEventId };
}

const message = (data, id = "") => ["message", data, id];

// [what it is, the stream, the events]
const CASES = [
  ["three blocks of the standard", "data: YHOO\ndata: +2\ndata: 10\n\n", [message("YHOO\n+2\n10")]],
  [
    "four blocks: a comment, an id, an id that resets it, a data line without an end",
    ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
    [message("first event", "1"), message("second event")],
  ],
  ["an empty data field is an event, two are a line feed", "data\n\ndata\ndata\n\ndata:", [message(""), message("\n")]],
  [
    "one space after the colon is left out, and only one",
    "data:test\n\ndata: test\n\ndata:  test\n\n",
    [message("test"), message("test"), message(" test")],
  ],
  ["a tab is no space", "data:\ttest\n\n", [message("\ttest")]],
  [
    "CR, LF and CR LF end lines alike",
    "data: a\rdata: b\ndata: c\r\n\r\ndata: d\r\r\ndata: e\n\n",
    [message("a\nb\nc"), message("d"), message("e")],
  ],
  ["CR LF is one end within an event", "data: a\r\ndata: b\r\nid: 1\r\n\r\n", [message("a\nb", "1")]],
  ["LF CR are two ends", "data: a\n\rdata: b\n\n", [message("a"), message("b")]],
  ["a comment is no event, nor is a lone colon", ":\n: x\n\n:data: y\n\ndata: z\n\n", [message("z")]],
  ["a named event", "event: add\ndata: 73857293\n\ndata: plain\n\n", [["add", "73857293", ""], message("plain")]],
  [
    "the last event name counts, an empty one is message",
    "event: a\nevent: b\ndata: 1\n\nevent\ndata: 2\n\n",
    [["b", "1", ""], message("2")],
  ],
  ["an event without data is none, and its name does not stay", "event: a\n\ndata: 1\n\n", [message("1")]],
  [
    "an id stays for the events that have none",
    "id: 1\ndata: a\n\ndata: b\n\n",
    [message("a", "1"), message("b", "1")],
  ],
  ["an id with NUL is ignored", "id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [message("a", "1"), message("b", "1")]],
  ["an id may have spaces and colons", "id:  a: b \ndata: 1\n\n", [message("1", " a: b ")]],
  ["fields that nobody knows are ignored, as is upper case", "Data: a\nfoo: b\ndata : c\ndata: d\n\n", [message("d")]],
  ["a byte order mark at the start is left out", "\uFEFFdata: a\n\n", [message("a")]],
  ["a second one is not", "\uFEFF\uFEFFdata: a\n\ndata: b\n\n", [message("b")]],
  ["nor is one later on", "data: a\n\n\uFEFFdata: b\n\ndata: \uFEFFc\n\n", [message("a"), message("\uFEFFc")]],
  ["NUL is data like any other", "data: a\0b\n\n", [message("a\0b")]],
  ["other ends of lines are data", "data: a\u2028b\u0085c\v\fd\n\n", [message("a\u2028b\u0085c\v\fd")]],
  ["all planes of Unicode", "data: é ✓ 日本 🐍\n\n", [message("é ✓ 日本 🐍")]],
  ["what no empty line ends is dropped", "data: a\n\nid: 7\ndata: b\n", [message("a")]],
  ["empty lines alone are nothing", "\n\r\n\r\r\n", []],
  ["an empty stream is nothing", "", []],
];

for (const [what, stream, events] of CASES) {
  test(what, () => {
    assert.deepEqual(parse([stream]).events, events);
  });

  test(`${what}: whatever the chunks`, () => {
    const bytes = utf8.encode(stream);
    const whole = parse([bytes]);
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]), whole, `cut after ${cut} bytes`);
    }
    assert.deepEqual(parse(Array.from(bytes, (byte) => Uint8Array.of(byte))), whole, "byte by byte");
  });
}

test("bytes that are not UTF-8 become replacement characters", () => {
  const bytes = Uint8Array.of(...utf8.encode("data: "), 0xff, 0x61, 0xe2, 0x82, 0x0a, 0x0a);
  assert.deepEqual(parse([bytes]).events, [message("\uFFFDa\uFFFD")]);
});

test("an event is told with its last byte: after a CR nothing is waited for", () => {
  assert.equal(parse(["data: a\r\r"]).events.length, 1);
  assert.equal(parse(["data: a\r\n\r"]).events.length, 1);
  assert.deepEqual(parse(["data: a\r\n\r", "\n", "data: b\n\n"]).events, [message("a"), message("b")]);
});

test("ids are told when their block is complete, with an event or without", () => {
  const { ids, lastEventId } = parse(["id: 1\ndata: a\n\ndata: b\n\nid: 2\n\nid\ndata: c\n\nid: 3\n"]);
  assert.deepEqual(ids, ["1", "2", ""]);
  assert.equal(lastEventId, "");
});

test("a new connection goes on with the id of the one before", () => {
  assert.deepEqual(parse(["data: a\n\n"], "41").events, [message("a", "41")]);
  assert.equal(parse([": nothing\n\n"], "41").lastEventId, "41");
});

test("retry takes ASCII digits and nothing else", () => {
  const lines = [
    "retry: 1000",
    "retry:0",
    "retry: 1e3",
    "retry: -1",
    "retry: 1 ",
    "retry",
    "retry: ١",
    "retry: 0x10",
    "retry: 007",
  ];
  assert.deepEqual(parse([`${lines.join("\n")}\n`]).retries, [1000, 0, 7]);
});

test("a line of a megabyte that comes in small chunks takes no quadratic time", { timeout: 20_000 }, () => {
  const line = "x".repeat(1 << 20);
  const bytes = utf8.encode(`data: ${line}\n\n`);
  const chunks = [];
  for (let at = 0; at < bytes.length; at += 100) chunks.push(bytes.subarray(at, at + 100));
  assert.equal(parse(chunks).events[0][1], line);
});
