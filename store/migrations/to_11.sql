-- From version 10 to 11. Kinds of units are an enum, sums are integers in steps, and a model records its family.

-- name: model
-- Versions up to 10 read only GPT-NeoX. If config.json was not recorded, the activation function is Pythia's.
SELECT *, 'GPT-NeoX' AS family, 'LayerNorm' AS norm, coalesce(config->>'hidden_act', 'gelu') AS activation FROM v10.model

-- name: position
SELECT *, NULL::BIGINT AS pos_embed_next, NULL::BIGINT AS pos_embed_top FROM v10.position

-- name: list_candidate
SELECT * REPLACE (split_part(kind::VARCHAR, '_', 1) AS kind), split_part(kind::VARCHAR, '_', 2) AS list FROM v10.list_candidate

-- name: list_entry
SELECT * REPLACE (split_part(kind::VARCHAR, '_', 1) AS kind), split_part(kind::VARCHAR, '_', 2) AS list FROM v10.list_entry

-- name: head_offset
-- Version 10 summed in float32. The rows have whole steps, so sums over them are exact.
SELECT h.run_id, h.layer, h.head, h.source_offset, count(*) AS positions, sum(h.attention) AS attention,
       count(h.toward_next) AS effects, sum(h.toward_next) AS effect
FROM v10.head_effect h
JOIN v10.position p ON p.run_id = h.run_id AND p.position_id = h.position_id
JOIN v10.run r ON r.run_id = h.run_id JOIN v10.model m ON m.model_id = r.model_id
JOIN v10.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
WHERE r.status = 'finished' AND (NOT t.is_special OR coalesce((r.settings->>'special_in_lists')::BOOLEAN, false))
GROUP BY h.run_id, h.layer, h.head, h.source_offset ORDER BY h.run_id, h.layer, h.head, h.source_offset

-- name: unit_stat
-- Sums become integers in steps of 2^-26, and sums of squares in steps of 2^-20. Sums of heads' effects are exact; sums of
-- neurons keep the rounding of version 10.
SELECT * EXCLUDE (is_head) REPLACE (
    round(total * 67108864)::HUGEINT AS total, round(squares * 1048576)::HUGEINT AS squares,
    round(effect * 67108864)::HUGEINT AS effect, round(effect_abs * 67108864)::HUGEINT AS effect_abs
), CASE WHEN is_head THEN 'head' ELSE 'neuron' END AS kind FROM v10.unit_stat

-- name: attention_stat
SELECT * REPLACE (round(total * 1073741824)::HUGEINT AS total) FROM v10.attention_stat

-- name: sample_row
SELECT * EXCLUDE (is_head), CASE WHEN is_head THEN 'head' ELSE 'neuron' END AS kind FROM v10.sample_row

-- name: sample_unit
SELECT * EXCLUDE (is_head), CASE WHEN is_head THEN 'head' ELSE 'neuron' END AS kind FROM v10.sample_unit
