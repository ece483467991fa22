// The API page: reads /openapi.json as the holder of a token, shows it, and lets one call what it shows.

const byId = (id) => document.getElementById(id);
let token = "";
let asked = 0;

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

const authorization = () => (token === "" ? {} : { Authorization: `Bearer ${token}` });

/** A JSON Schema as somebody would write the type. */
export function typeOf(schema) {
  if (schema === false) return "nothing";
  if (typeof schema !== "object" || schema === null) return "any";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.allOf?.length === 1) return typeOf(schema.allOf[0]);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choice = schema.anyOf ?? schema.oneOf;
  if (choice) return [...new Set(choice.map(typeOf))].join(" | ");
  if (schema.prefixItems) return `[${schema.prefixItems.map(typeOf).join(", ")}]`;
  if (schema.type === "array") return `${wrapped(typeOf(schema.items))}[]`;
  if (schema.type === "object" && schema.properties) return fieldsOf(schema);
  const others = schema.type === "object" && schema.additionalProperties;
  if (others) return `{ name: ${typeOf(others)} }`;
  const kind = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type ?? "any";
  return schema.format ? `${kind} (${schema.format})` : kind;
}

function fieldsOf({ properties, required = [] }) {
  const fields = Object.entries(properties).map(([name, kind]) =>
    `${name}${required.includes(name) ? "" : "?"}: ${typeOf(kind)}`);
  return fields.length > 0 ? `{ ${fields.join(", ")} }` : "{}";
}

const wrapped = (text) => (text.includes(" | ") ? `(${text})` : text);

const LIMITS = {
  minimum: "at least", maximum: "at most", exclusiveMinimum: "above", exclusiveMaximum: "below",
  minLength: "characters at least", maxLength: "characters at most", pattern: "pattern",
  minItems: "items at least", maxItems: "items at most", multipleOf: "multiple of",
};

function limitsOf(schema) {
  const parts = Object.entries(LIMITS).filter(([key]) => key in schema).map(([key, text]) => `${text} ${schema[key]}`);
  if ("default" in schema) parts.push(`default ${JSON.stringify(schema.default)}`);
  if (schema.description) parts.push(schema.description);
  return parts.join(", ");
}

function exampleOf(schema) {
  if ("default" in schema) return schema.default;
  const kind = (schema.anyOf ?? schema.oneOf ?? schema.allOf)?.[0] ?? schema;
  if (kind.anyOf ?? kind.oneOf ?? kind.allOf) return exampleOf(kind);
  if (kind.const !== undefined) return kind.const;
  if (kind.enum) return kind.enum[0];
  const empty = { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} };
  return empty[[kind.type].flat()[0]] ?? (kind.$ref ? {} : null);
}

function table(caption, rows) {
  const head = make("tr", {}, ...["Name", "Type", ""].map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map(([name, type, note]) =>
    make("tr", {}, make("th", { scope: "row" }, make("code", {}, name)), make("td", {}, make("code", {}, type)),
      make("td", {}, note)));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

/** What a function answers when it succeeds: a type, or that there is none. */
function answerOf(responses) {
  const [, success] = Object.entries(responses).find(([status, one]) => status.startsWith("2") && one.content) ?? [];
  const schema = success?.content["application/json"]?.schema;
  return schema ? typeOf(schema.properties?.result) : "no body";
}

function functionOf(name, operation) {
  const { properties = {}, required = [] } = operation.requestBody.content["application/json"].schema;
  const notes = [`permission ${operation["x-kontract-perm"]}`];
  if (operation["x-kontract-ugroup"]) notes.push(`group ${operation["x-kontract-ugroup"]}`);
  if (operation.security) notes.push("public");
  const statuses = Object.keys(operation.responses);
  if (statuses.some((status) => status.startsWith("3"))) notes.push("chooses its status");
  const failures = Object.entries(operation.responses).filter(([status]) => /^[45]/.test(status));
  const parts = [
    make("p", { className: "summary" }, operation.summary),
    ...(operation.description ? [make("p", { className: "more" }, operation.description)] : []),
    make("p", { className: "notes" }, notes.join(" · ")),
  ];
  if (Object.keys(properties).length > 0) {
    parts.push(table("Arguments", Object.entries(properties).map(([argument, schema]) => {
      const notes = [required.includes(argument) ? "" : "optional", limitsOf(schema)];
      return [argument, typeOf(schema), notes.filter(Boolean).join(", ")];
    })));
  }
  parts.push(make("p", { className: "returns" }, "Returns ", make("code", {}, answerOf(operation.responses))));
  parts.push(make("details", {}, make("summary", {}, "Errors"),
    make("ul", {}, ...failures.map(([status, { description }]) => make("li", {}, `${status} ${description}`)))));
  parts.push(tryOf(name, Object.fromEntries(required.map((argument) => [argument, exampleOf(properties[argument])]))));
  return parts;
}

/** An article about one function. What cannot be shown of it must not hide the others. */
function articleOf(name, operation) {
  let parts;
  try {
    parts = functionOf(name, operation);
  } catch (error) {
    parts = [make("p", { className: "notes" }, `This page cannot show all of it (${error.message}):`),
      make("pre", { tabIndex: 0 }, JSON.stringify(operation, null, 2))];
  }
  return make("article", { "aria-labelledby": name, className: "function" },
    make("h3", { id: name }, make("code", {}, name)), ...parts);
}

function tryOf(name, example) {
  const id = `try-${name}`;
  const input = make("textarea", { id, rows: 2, spellcheck: false, value: JSON.stringify(example) });
  const answer = make("pre", { tabIndex: 0, hidden: true, "aria-label": `Answer of ${name}` });
  const status = make("p", { "aria-live": "polite" });
  const form = make("form", {}, make("label", { htmlFor: id }, "Arguments by name, as JSON"), input,
    make("button", {}, `Call ${name}`), status, answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    status.textContent = "Calling …";
    try {
      const headers = { "Content-Type": "application/json", ...authorization() };
      const response = await fetch(`call/${name}`, { method: "POST", headers, body: input.value });
      const text = await response.text();
      const [timing, commit] = ["Server-Timing", "X-Kontract-Txid"].map((name) => response.headers.get(name));
      const told = [`Status ${response.status}`, timing, commit && `commit ${commit}`];
      status.textContent = told.filter(Boolean).join(" · ");
      answer.textContent = pretty(text);
      answer.hidden = false;
    } catch {
      status.textContent = "The server cannot be reached.";
    }
  });
  return make("details", { className: "try" }, make("summary", {}, "Try it"), form);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function typesOf(name, schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([field, kind]) =>
    [field, typeOf(kind), [required.has(field) ? "" : "optional", limitsOf(kind)].filter(Boolean).join(", ")]);
  const id = `type-${name}`;
  const shown = rows.length > 0 ? table("Fields", rows) : make("code", {}, typeOf(schema));
  return make("article", { "aria-labelledby": id }, make("h3", { id }, make("code", {}, name)),
    make("p", {}, schema.description ?? ""), shown);
}

function show(document_) {
  const groups = new Map();
  const gateway = [];
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (path.startsWith("/rpc/")) continue; // the same functions a second time, by position
      if (!path.startsWith("/call/")) gateway.push([`${method.toUpperCase()} ${path}`, "", operation.summary]);
      else {
        const [group] = operation.tags;
        groups.set(group, [...(groups.get(group) ?? []), articleOf(path.slice("/call/".length), operation)]);
      }
    }
  }
  const sections = [...groups].map(([name, functions]) => make("section", {}, make("h2", {}, name), ...functions));
  byId("functions").replaceChildren(...sections);
  const types = Object.entries(document_.components.schemas).map(([name, schema]) => typesOf(name, schema));
  byId("types").replaceChildren(byId("types-title"), ...types);
  byId("gateway").replaceChildren(byId("gateway-title"),
    make("ul", {}, ...gateway.map(([what, , summary]) => make("li", {}, make("code", {}, what), ` ${summary}`))));
  find();
  return [...groups.values()].flat().length;
}

async function load() {
  const mine = ++asked;
  const response = await fetch("openapi.json", { headers: authorization() }).catch(() => null);
  const answer = await response?.json().catch(() => null);
  if (mine !== asked) return;
  if (!answer) {
    byId("state").textContent = "The server cannot be reached.";
  } else if (!response.ok) {
    byId("state").textContent = `${answer.message}.`;
  } else {
    const count = show(answer);
    const whose = token === "" ? "without a token. With one there may be more" : "with this token";
    byId("state").textContent = `${count} ${count === 1 ? "function" : "functions"} may be called ${whose}.`;
  }
}

function find() {
  const text = byId("find").value.trim().toLowerCase();
  for (const one of document.querySelectorAll(".function")) one.hidden = !one.textContent.toLowerCase().includes(text);
}

byId("find").addEventListener("input", find);
byId("session").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  load();
});
byId("anonymous").addEventListener("click", async () => {
  const response = await fetch("auth/anonymous", { method: "POST" }).catch(() => null);
  const answer = response === null ? { message: "the server cannot be reached" } : await response.json();
  if (response?.ok) {
    token = answer.token;
    byId("token").value = token;
    await load();
  } else {
    byId("state").textContent = `${answer.message}.`;
  }
});
load();
