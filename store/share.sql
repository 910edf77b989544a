-- The queries with which `annotate export --to` copies a run into a lake (store/share.py).

-- name: try_lock
-- For PostgreSQL: take a lock if it is free, and return whether this writer has it.
SELECT pg_try_advisory_xact_lock($locks, $lock) AS has

-- name: wait_for_lock
-- For PostgreSQL: take a lock, and wait while another writer has it.
SELECT pg_advisory_xact_lock($locks, $lock)::text AS has

-- name: numbers
-- The numbers of the runs, corpora, models and tokenizers of the lake.
SELECT 'run' AS owner, run_id AS number FROM base.run
UNION ALL SELECT 'corpus', corpus_id FROM base.corpus
UNION ALL SELECT 'model', model_id FROM base.model
UNION ALL SELECT 'tokenizer', tokenizer_id FROM base.tokenizer

-- name: checksums_of_lake
-- The table base.checksum of a lake. Rows are only added to a lake, so where rows of an object were added later, their
-- number and checksum have a row of their own; the checksum of all is the sum.
SELECT owner::owner AS owner, owner_id, name, shard, sum(rows)::BIGINT AS rows, sum(checksum::HUGEINT) AS checksum
FROM lake.base.checksum GROUP BY ALL
