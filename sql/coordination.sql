-- Tables that several nodes of `kontract serve` share when there is no TiKV: the coordinators' logs.
-- Needed only for KONTRACT_COORDINATION=postgres, not for Workers or TiKV. Idempotent, applied by
-- `kontract migrate --coordination`. Empty tables are a valid state: truncating them while no node runs loses change
-- events and the values of ctx.shared, and no other data.

BEGIN;

-- The end of each tenant's log. Appending locks its row, so the log has one order.
CREATE TABLE IF NOT EXISTS coordination (
  owner    TEXT   PRIMARY KEY,
  position BIGINT NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Batches of commands: JSON, see src/kontract/core/protocol/commands.py. "at": milliseconds since 1970.
CREATE TABLE IF NOT EXISTS coordination_log (
  owner    TEXT   NOT NULL,
  position BIGINT NOT NULL,
  at       BIGINT NOT NULL,
  batch    BYTEA  NOT NULL,
  PRIMARY KEY (owner, position)
);

-- The state up to a position, so that earlier entries need not be kept.
CREATE TABLE IF NOT EXISTS coordination_checkpoints (
  owner    TEXT   PRIMARY KEY,
  position BIGINT NOT NULL,
  state    BYTEA  NOT NULL
);

-- Values of ctx.shared: JSON as text; until is their expiry, in milliseconds since the Unix epoch.
CREATE TABLE IF NOT EXISTS shared (
  owner TEXT COLLATE "C" NOT NULL,
  key   TEXT COLLATE "C" NOT NULL,
  value TEXT NOT NULL,
  until BIGINT,
  PRIMARY KEY (owner, key)
);
CREATE INDEX IF NOT EXISTS shared_by_end ON shared (until) WHERE until IS NOT NULL;

COMMIT;
