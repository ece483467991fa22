/**
 * The rows of one table as this tab knows them: what was read, what calls have answered, what the stream has said.
 *
 * All three may tell of the same commit, in any order; the transaction's number decides what is newer. `onChange(ids)`
 * is called with the rows that became others, or are gone; when the table has been read, perhaps with none.
 */
export class Rows {
  #known = new Map(); // id -> {row, txid}; the row of a deleted one is null
  #fresh = null; // the same for what is heard while the table is read
  #load = 0;
  onChange = () => {};

  /** Whether the table has been read. */
  read = false;

  get(id) {
    return this.#known.get(id)?.row ?? null;
  }

  /** All rows there are. */
  all() {
    return [...this.#known.values()].map(({ row }) => row).filter((row) => row !== null);
  }

  /** Takes a row as transaction `txid` left it; null for a deleted one. True if that was news. */
  put(id, row, txid) {
    if (this.#fresh !== null && !(this.#fresh.get(id)?.txid >= txid)) this.#fresh.set(id, { row, txid });
    if (this.#known.get(id)?.txid >= txid) return false;
    this.#known.set(id, { row, txid });
    this.onChange([id]);
    return true;
  }

  /** Takes away a row that is gone; nobody said with which transaction, but the stream will. */
  forget(id) {
    const txid = this.#known.get(id)?.txid ?? 0;
    this.#known.set(id, { row: null, txid });
    this.onChange([id]);
  }

  /**
   * Reads the table, page by page with `page(after, limit)`, and forgets what is not in it any more. To be called when
   * the stream stands, so that no change falls between the two.
   */
  async load(page, limit = 1000) {
    const load = (this.#load += 1);
    const fresh = (this.#fresh = new Map());
    for (let after = null, rows = null; rows === null || rows.length === limit; after = rows.at(-1)?.id) {
      rows = await page(after, limit);
      if (load !== this.#load) return; // a later one has begun
      // What was heard meanwhile is as new or newer. What was read is older than all that is still to be heard.
      for (const row of rows) if (!fresh.has(row.id)) fresh.set(row.id, { row, txid: 0 });
    }
    const before = this.#known;
    this.#known = fresh;
    this.#fresh = null;
    this.read = true;
    this.onChange([...before.keys(), ...fresh.keys()]);
  }
}
