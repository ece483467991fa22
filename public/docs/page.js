// The API page: Swagger UI shows /openapi.json, which is read with the visitor's token, and calls what it shows. This
// file adds the token and the search, and keeps Swagger UI within the policy of the site (decision 0028).

const byId = (id) => document.getElementById(id);
let token = "";
let asked = 0;
let viewer;

const authorization = () => (token === "" ? {} : { Authorization: `Bearer ${token}` });

/** Descriptions are docstrings: text, not Markdown. So no text of the document ever becomes HTML. */
const asText = (_, { React }) => ({ source, className = "" }) =>
  source ? React.createElement("p", { className: `as-text ${className}` }, source) : null;

const nothing = () => () => null;

const named = (TextArea, { React }) => (properties) =>
  React.createElement(TextArea, { "aria-label": "Arguments, as JSON", ...properties });

/** Keeps the operations that say a text: in their names, their summaries or their descriptions. */
function saying(groups, text) {
  const says = (one) => [one.get("path"), one.getIn(["operation", "summary"]), one.getIn(["operation", "description"])]
    .some((part) => part?.toLowerCase().includes(text));
  return groups
    .map((group) => group.update("operations", (operations) => operations.filter(says)))
    .filter((group) => group.get("operations").size > 0);
}

/** Swagger UI shows "Execute" before it has resolved the operation, and fails if it is clicked then. */
const known = (execute, { specSelectors }) => (request) => {
  const operation = request.operation.has("operationId")
    ? request.operation
    : specSelectors.specJson().getIn(["paths", request.pathName, request.method]);
  return execute({ ...request, operation });
};

const plugin = () => ({
  fn: { opsFilter: (groups, text) => saying(groups, text.trim().toLowerCase()) },
  wrapComponents: {
    Markdown: asText,
    TextArea: named,
    // The token is asked for above, once for the document and for calls; there is one server, the page's own.
    authorizeBtn: nothing,
    authorizeOperationBtn: nothing,
    ServersContainer: nothing,
    InfoContainer: nothing,
    FilterContainer: nothing,
  },
  statePlugins: { spec: { wrapActions: { executeRequest: known } } },
});

/** All failures have one body, which the types below show: of each response its code and its words are enough. */
const brief = ([status, response]) => [status, /^[45]/.test(status) ? { description: response.description } : response];

const mapped = (object, change) => Object.fromEntries(Object.entries(object).map(change));

const shortened = ([method, operation]) => [method, { ...operation, responses: mapped(operation.responses, brief) }];

function show(answer) {
  // The functions stand in it a second time, to be called by position.
  const paths = Object.entries(answer.paths).filter(([path]) => !path.startsWith("/rpc/"))
    .map(([path, methods]) => [path, mapped(methods, shortened)]);
  const here = new URL(".", location.href).href.slice(0, -1);
  const spec = { ...answer, paths: Object.fromEntries(paths), servers: [{ url: here }] };
  if (viewer) {
    viewer.specActions.updateSpec(JSON.stringify(spec));
  } else {
    viewer = SwaggerUIBundle({
      spec,
      domNode: byId("functions"),
      plugins: [plugin],
      requestInterceptor: (request) => Object.assign(request, { headers: { ...request.headers, ...authorization() } }),
      deepLinking: true,
      filter: byId("find").value,
      showExtensions: true,
      tryItOutEnabled: true,
      validatorUrl: null,
    });
  }
  return paths.filter(([path]) => path.startsWith("/call/")).length;
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

byId("find").addEventListener("input", () => viewer?.layoutActions.updateFilter(byId("find").value));
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

const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", shade);
shade();
load();
