-- The queries of the command `annotate export` (store/export.py).

-- name: owners
-- The ids of the objects whose rows an export copies: a run, and its model, corpus and tokenizer. Each column is named
-- after the kind of object, as in base.catalogue.owner.
SELECT r.run_id AS run, r.model_id AS model, r.corpus_id AS corpus, m.tokenizer_id AS tokenizer
FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run

-- name: checksums
SELECT * FROM base.checksum
WHERE (owner, owner_id) IN (('store', 0), ('tokenizer', $tokenizer), ('model', $model), ('corpus', $corpus), ('run', $run))

-- name: views
-- The public views, one row per view: its name and the list of the names of its columns.
SELECT table_name, list(column_name) FROM duckdb_columns() c
WHERE database_name = current_database() AND schema_name = 'main'
  AND table_name IN (SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal)
GROUP BY table_name ORDER BY table_name
