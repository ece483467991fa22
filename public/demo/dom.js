// Small steps with the document that all parts of the page take.

export const byId = (id) => document.getElementById(id);

/** Makes an element. Properties are set as such, names with a dash as attributes; children are elements or texts. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Makes of a server's message a sentence, with a capital and a full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  const ended = /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

const KNOWN = {
  NETWORK: "The server cannot be reached. No call was applied halfway; try again when it is back.",
  TIMEOUT: "The server did not answer in time. Try again.",
  CONFLICT: "Too many calls wanted the same rows at the same time. Try again.",
  RATE_LIMITED: "Too many requests in a short time. Wait a little, then try again.",
};

/** What a person is told about an error; `known`: sentences for codes that have a meaning of their own here. */
export function explain(error, known = {}) {
  const text = known[error.code] ?? KNOWN[error.code] ?? sentence(error.message || String(error));
  return error.status >= 500 && error.requestId
    ? `${text} The server’s log has it as request ${error.requestId}.`
    : text;
}

/** Tells users of screen readers; everybody else sees it. */
export function announce(text) {
  const announcer = byId("announcer");
  announcer.textContent = ""; // the same text twice is news, too
  setTimeout(() => {
    announcer.textContent = text;
  }, 50);
}

/** Shows an error at `where` (an element with role="alert"), or takes it away. */
export function showError(where, text, field = null) {
  where.textContent = text;
  for (const input of document.querySelectorAll(`[aria-describedby="${where.id}"]`)) {
    if (text !== "" && (field === null || input === field)) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
}

/**
 * Runs `work(values)` when a form is sent; errors are shown at `where` as a sentence, in the words of `known` if they
 * are there. `work` may throw an Invalid that names a field. What is sent while work is under way is left alone (a
 * double click is no second wish), or with `queue` done afterwards.
 */
export function onSubmit(form, where, work, { known = {}, queue = false } = {}) {
  let last = Promise.resolve();
  let under = 0;
  const one = async (values) => {
    try {
      await work(values);
    } catch (error) {
      const field = error instanceof Invalid ? form.elements[error.field] : null;
      showError(where, explain(error, known), field);
      if (mayMoveFocus(form)) field?.focus();
    }
    under -= 1;
    if (under === 0) form.removeAttribute("aria-busy");
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const untouched = Array.from(form.elements).every(({ value, defaultValue = value }) => value === defaultValue);
    if (under > 0 && (!queue || untouched)) return;
    under += 1;
    showError(where, ""); // now, not when its turn comes: the error of the one before it is to be seen
    form.setAttribute("aria-busy", "true");
    const values = Object.fromEntries(new FormData(form));
    if (queue) form.reset(); // at once: what is typed meanwhile is the next
    last = last.then(() => one(values));
  });
}

/** Whether the focus is still within `element`, or nowhere: it must not be taken from another place. */
export function mayMoveFocus(element) {
  const { activeElement, body } = document;
  return activeElement === null || activeElement === body || element.contains(activeElement);
}

/** Puts back what was typed, after an error, unless something else was typed meanwhile. */
export async function restoring(form, values, work) {
  try {
    return await work();
  } catch (error) {
    for (const [name, value] of Object.entries(values)) {
      const field = form.elements[name];
      if (field.value === field.defaultValue) field.value = value;
    }
    throw error;
  }
}

/** What a person has typed will not do; the message says what would. */
export class Invalid extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Reads a whole number from 0 (or `least`) on. */
export function amount(values, field, least = 0) {
  const text = values[field].trim();
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < least || number > 1e12) {
    throw new Invalid(field, `The amount must be a whole number of at least ${least}.`);
  }
  return number;
}

/** Lets an element light up for a moment: it has just changed. */
export function flash(element) {
  element.classList.remove("flash");
  void element.offsetWidth; // so that the animation restarts
  element.classList.add("flash");
}
