-- The queries of `annotate export` (store/export.py).

-- name: owners
-- The ids of a run and of its model, corpus and tokenizer. The columns have the names that base.catalogue uses for
-- these owners of rows.
SELECT r.run_id AS run, r.model_id AS model, r.corpus_id AS corpus, m.tokenizer_id AS tokenizer
FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run

-- name: checksums
SELECT * FROM base.checksum
WHERE (owner, owner_id) IN (('store', 0), ('tokenizer', $tokenizer), ('model', $model), ('corpus', $corpus), ('run', $run))

-- name: views
-- The public views, each with the list of its columns.
SELECT table_name, list(column_name) FROM duckdb_columns() c
WHERE database_name = current_database() AND schema_name = 'main'
  AND table_name IN (SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal)
GROUP BY table_name ORDER BY table_name
