import { Invalid, announce, byId, explain, flash, make, mayMoveFocus, onSubmit, restoring, showError } from "./dom.js";
import { Rows } from "./rows.js";

const SHOWN = 50;

const GONE = { NOT_FOUND: "That task has just been deleted elsewhere." };

/** The list of tasks, newest first. `call(name, ...args)` answers `{result, txid}`. */
export class Tasks {
  rows = new Rows();
  #call;
  #list = byId("tasks");
  #error = byId("task-error");
  #items = new Map(); // id -> Item, of those shown
  #shown = SHOWN;
  #drawing = false;
  #changed = new Set();

  constructor(call) {
    this.#call = call;
    this.rows.onChange = (ids) => this.#draw(ids);
    const form = byId("task-form");
    const add = async ({ title }) => {
      if (title.trim() === "") throw new Invalid("title", "A task needs a title.");
      const { result, txid } = await restoring(form, { title }, () => call("create_task", title.trim()));
      this.rows.put(result.id, result, txid);
      announce(`Added: ${result.title}`);
    };
    onSubmit(form, this.#error, add, { queue: true });
    byId("task-form").addEventListener("submit", () => form.elements.title.focus());
    byId("tasks-more").addEventListener("click", () => {
      const first = this.#list.children.length;
      this.#shown += SHOWN;
      this.#redraw();
      this.#list.children[first]?.querySelector("input, button")?.focus();
    });
  }

  load() {
    return this.rows.load(async (after, limit) => (await this.#call("list_tasks", null, limit, after)).result);
  }

  /** Calls a function on a task and takes over its answer; errors are shown. True if all went well. */
  async change(name, id, ...more) {
    try {
      showError(this.#error, "");
      const { result, txid } = await this.#call(name, id, ...more);
      this.rows.put(id, name === "delete_task" ? null : result, txid);
      return true;
    } catch (error) {
      showError(this.#error, explain(error, GONE));
      if (error.code === "NOT_FOUND") this.rows.forget(id);
      return false;
    }
  }

  async remove(item) {
    const { title } = this.rows.get(item.id) ?? { title: "" };
    item.leaving = true;
    const gone = await this.change("delete_task", item.id);
    item.leaving = false;
    if (gone) announce(`Deleted: ${title}`);
  }

  /** Many rows change at once while the table is read: they are drawn together. */
  #draw(ids) {
    for (const id of ids) this.#changed.add(id);
    if (this.#drawing) return;
    this.#drawing = true;
    queueMicrotask(() => this.#redraw());
  }

  #redraw() {
    this.#drawing = false;
    const tasks = this.rows.all().sort((one, other) => (one.id < other.id ? 1 : -1));
    const visible = tasks.slice(0, this.#shown);
    const wanted = new Set(visible.map(({ id }) => id));
    let left = null; // the item that goes and has the focus
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      if (item.element.contains(document.activeElement)) left = item;
      item.element.remove();
      this.#items.delete(id);
    }
    let place = this.#list.firstElementChild;
    for (const task of visible) {
      let item = this.#items.get(task.id);
      if (item === undefined) {
        item = new Item(this, task);
        this.#items.set(task.id, item);
      } else if (this.#changed.has(task.id)) {
        item.show(task);
      }
      if (item.element === place) place = place.nextElementSibling;
      else this.#list.insertBefore(item.element, place);
      if (this.rows.read && this.#changed.has(task.id) && this.#list.dataset.read) flash(item.element);
    }
    this.#changed.clear();
    if (this.rows.read) this.#list.dataset.read = "yes"; // from now on a change is news
    if (left !== null) this.#refocus(left, visible);
    const older = tasks.length - visible.length;
    const more = byId("tasks-more");
    more.hidden = older === 0;
    more.textContent = `Show older tasks (${older})`;
    byId("tasks-empty").hidden = visible.length > 0;
    if (this.rows.read) byId("tasks-empty").textContent = "There are no tasks. Add the first one.";
  }

  /**
   * The focus must not fall off the page with what had it. Whoever deletes one task after the other goes on with the
   * next; whoever was at a task that somebody else has deleted must not find a finger on the button of another one.
   */
  #refocus(left, visible) {
    const next = visible.find(({ id }) => id < left.id) ?? visible.at(-1);
    const { element } = (left.leaving && this.#items.get(next?.id)) || {};
    (element?.querySelector(".delete") ?? element?.querySelector("input") ?? byId("task-title")).focus();
  }
}

/** One task in the list. `leaving`: this tab is deleting it. */
class Item {
  element = make("li");
  leaving = false;
  #tasks;
  #box;
  #title;
  #view;
  #rename;
  #remove;
  #editor = null;

  constructor(tasks, task) {
    this.#tasks = tasks;
    this.id = task.id;
    this.#box = make("input", { type: "checkbox" });
    this.#title = make("span");
    this.#rename = make("button", { type: "button", className: "quiet rename", textContent: "Rename" });
    this.#remove = make("button", { type: "button", className: "quiet delete", textContent: "Delete" });
    this.#view = make(
      "div",
      { className: "task" },
      make("label", {}, this.#box, this.#title),
      this.#rename,
      this.#remove,
    );
    this.element.append(this.#view);
    this.#box.addEventListener("click", (event) => this.#toggle(event));
    this.#rename.addEventListener("click", () => this.#edit());
    this.#remove.addEventListener("click", () => tasks.remove(this));
    this.show(task);
  }

  show({ title, done }) {
    this.#title.textContent = title;
    this.#box.checked = done;
    this.element.classList.toggle("done", done);
    this.#rename.setAttribute("aria-label", `Rename ${title}`);
    this.#remove.setAttribute("aria-label", `Delete ${title}`);
  }

  async #toggle(event) {
    if (this.element.ariaBusy === "true") {
      event.preventDefault();
      return;
    }
    this.element.ariaBusy = "true";
    await this.#tasks.change("toggle_task", this.id);
    this.element.ariaBusy = null;
    const task = this.#tasks.rows.get(this.id);
    if (task) this.show(task); // as it is, which after an error is as it was
  }

  #edit() {
    const { title } = this.#tasks.rows.get(this.id) ?? { title: "" };
    const input = make("input", {
      value: title,
      maxLength: 200,
      autocomplete: "off",
      "aria-label": `New title of ${title}`,
    });
    const cancel = make("button", { type: "button", className: "quiet", textContent: "Cancel" });
    this.#editor = make("form", { noValidate: true }, input, make("button", { textContent: "Save" }), cancel);
    this.#view.replaceWith(this.#editor);
    input.focus();
    input.select();
    cancel.addEventListener("click", () => this.#close());
    this.#editor.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.#close();
    });
    onSubmit(this.#editor, byId("task-error"), async () => {
      const wanted = input.value.trim();
      if (wanted === "") {
        input.focus();
        throw new Error("A task needs a title.");
      }
      if (wanted !== title && !(await this.#tasks.change("rename_task", this.id, wanted))) return;
      this.#close();
    });
  }

  #close() {
    if (!this.#editor?.isConnected) return;
    const focused = mayMoveFocus(this.#editor);
    this.#editor.replaceWith(this.#view);
    this.#editor = null;
    if (focused) this.#rename.focus();
  }
}
