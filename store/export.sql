-- Queries for tables that store integer steps of a logit; for CSV and JSON, they convert the steps to logits.
-- Other tables, and all Parquet files, are exported as they are stored (store/export.py).

-- name: owners
-- The ids of a run, its model, its corpus and its tokenizer; the columns are named as the members of the enum `owner`.
SELECT r.run_id AS run, r.model_id AS model, r.corpus_id AS corpus, m.tokenizer_id AS tokenizer
FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run

-- name: checksums
SELECT * FROM base.checksum
WHERE (owner, owner_id) IN (('store', 0), ('tokenizer', $tokenizer), ('model', $model), ('corpus', $corpus), ('run', $run))

-- name: position in logits
SELECT * REPLACE (
    base.logits(embed_next) AS embed_next, base.logits(embed_top) AS embed_top,
    base.logits(pos_embed_next) AS pos_embed_next, base.logits(pos_embed_top) AS pos_embed_top,
    base.logits(bias_next) AS bias_next, base.logits(bias_top) AS bias_top
) FROM base.position WHERE run_id = $id

-- name: contribution in logits
SELECT * REPLACE (
    base.logits(attn_next) AS attn_next, base.logits(attn_top) AS attn_top,
    base.logits(mlp_next) AS mlp_next, base.logits(mlp_top) AS mlp_top,
    base.logits(mlp_remainder_next) AS mlp_remainder_next, base.logits(mlp_remainder_top) AS mlp_remainder_top
) FROM base.contribution WHERE run_id = $id

-- name: head in logits
SELECT * REPLACE (
    base.logits(toward_next) AS toward_next, base.logits(toward_top) AS toward_top
) FROM base.head WHERE run_id = $id
