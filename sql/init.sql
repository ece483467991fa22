-- The schema: two system tables, the demo's tables, and where the tenant's tables live.
-- Idempotent. `psql -f sql/init.sql` and `kontract migrate` end in the same state.

BEGIN;

-- The physical table (ptr) of each logical table (id) of a tenant (owner). A second tenant's table of the same name has
-- the id '<owner>/<name>'.
CREATE TABLE IF NOT EXISTS storage (
  id          TEXT PRIMARY KEY,
  ptr         TEXT NOT NULL,
  owner       TEXT NOT NULL,
  permissions INT  NOT NULL DEFAULT 7
);

-- Fences: one row per transaction that was applied (create_txid > 0) or aborted for good (< 0), kept for a day; and one
-- row per tenant, sid 'epoch/<owner>', with the incarnation of its coordinator that may commit. result: the answer of a
-- call with an Idempotency-Key, for its repetitions; without this column only those after a loss of the coordinator's
-- journal are refused.
CREATE TABLE IF NOT EXISTS trxs (
  sid         TEXT    PRIMARY KEY,
  owner       TEXT    NOT NULL,
  create_txid BIGINT  NOT NULL,
  result      TEXT
);

-- ADD COLUMN IF NOT EXISTS would block every commit for a moment even if there is nothing to add.
DO $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = 'trxs'::regclass AND attname = 'result' AND NOT attisdropped
  ) THEN
    ALTER TABLE trxs ADD COLUMN result TEXT;
  END IF;
END
$$;

-- A versioned table: every version of a row is a separate row until it is collected. At most one version of an id is
-- live. COLLATE "C" orders ids by their bytes on every system. The index _order is only for pop and shift: its condition
-- is written differently from that of _live, so that no other query uses it.
CREATE TABLE IF NOT EXISTS tbl_tasks_5f0c1d (
  id            TEXT COLLATE "C" NOT NULL,
  data          JSONB  NOT NULL DEFAULT '{}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT   NOT NULL,
  _order        SERIAL,
  PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX IF NOT EXISTS tbl_tasks_5f0c1d_live ON tbl_tasks_5f0c1d (id) WHERE _deleted_txid IS NULL;
CREATE INDEX IF NOT EXISTS tbl_tasks_5f0c1d_data ON tbl_tasks_5f0c1d USING gin (data jsonb_path_ops);
CREATE INDEX IF NOT EXISTS tbl_tasks_5f0c1d_dead ON tbl_tasks_5f0c1d (_deleted_txid) WHERE _deleted_txid IS NOT NULL;
CREATE INDEX IF NOT EXISTS tbl_tasks_5f0c1d_order ON tbl_tasks_5f0c1d (_order, id COLLATE "C")
  WHERE coalesce(_deleted_txid, 0) = 0;

CREATE TABLE IF NOT EXISTS tbl_accounts_9b27e4 (
  id            TEXT COLLATE "C" NOT NULL,
  data          JSONB  NOT NULL DEFAULT '{}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT   NOT NULL,
  _order        SERIAL,
  PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX IF NOT EXISTS tbl_accounts_9b27e4_live ON tbl_accounts_9b27e4 (id) WHERE _deleted_txid IS NULL;
CREATE INDEX IF NOT EXISTS tbl_accounts_9b27e4_data ON tbl_accounts_9b27e4 USING gin (data jsonb_path_ops);
CREATE INDEX IF NOT EXISTS tbl_accounts_9b27e4_dead ON tbl_accounts_9b27e4 (_deleted_txid)
  WHERE _deleted_txid IS NOT NULL;
CREATE INDEX IF NOT EXISTS tbl_accounts_9b27e4_order ON tbl_accounts_9b27e4 (_order, id COLLATE "C")
  WHERE coalesce(_deleted_txid, 0) = 0;

-- Accounts and sessions of all tenants (POST /auth/...). They belong to the gateway: no token names their owner.
CREATE TABLE IF NOT EXISTS tbl_users_c41d7a (
  id            TEXT COLLATE "C" NOT NULL,
  data          JSONB  NOT NULL DEFAULT '{}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT   NOT NULL,
  _order        SERIAL,
  PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX IF NOT EXISTS tbl_users_c41d7a_live ON tbl_users_c41d7a (id) WHERE _deleted_txid IS NULL;
CREATE INDEX IF NOT EXISTS tbl_users_c41d7a_dead ON tbl_users_c41d7a (_deleted_txid) WHERE _deleted_txid IS NOT NULL;

CREATE TABLE IF NOT EXISTS tbl_sessions_e08b53 (
  id            TEXT COLLATE "C" NOT NULL,
  data          JSONB  NOT NULL DEFAULT '{}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT   NOT NULL,
  _order        SERIAL,
  PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX IF NOT EXISTS tbl_sessions_e08b53_live ON tbl_sessions_e08b53 (id) WHERE _deleted_txid IS NULL;
CREATE INDEX IF NOT EXISTS tbl_sessions_e08b53_dead ON tbl_sessions_e08b53 (_deleted_txid)
  WHERE _deleted_txid IS NOT NULL;
-- For a coordinator that has lost its memory: ended sessions that still matter.
CREATE INDEX IF NOT EXISTS tbl_sessions_e08b53_ended ON tbl_sessions_e08b53 (((data->>'until')::bigint))
  WHERE _deleted_txid IS NULL AND data @> '{"ended": true}';

INSERT INTO storage (id, ptr, owner, permissions) VALUES
  ('__users', 'tbl_users_c41d7a', '__system', 7),
  ('__sessions', 'tbl_sessions_e08b53', '__system', 7),
  ('tasks', 'tbl_tasks_5f0c1d', 'tenant-1', 7),
  ('accounts', 'tbl_accounts_9b27e4', 'tenant-1', 7)
ON CONFLICT (id) DO NOTHING;

COMMIT;
