-- Upgrade a store from schema version 10 to 11. Version 11 stores the kind of a unit (neuron or head) as an enum, each
-- sum as an integer number of small steps (such as 2^-26), and the family of a model. Each table is now named after the
-- view that reads it.

-- name: model
-- Before version 11, only GPT-NeoX models could be read, so all stored models are of this family. If a model's
-- config.json was not recorded, its activation function is set to GELU, the function of Pythia.
SELECT *, 'gpt_neox' AS family, 'LayerNorm' AS norm, upper(coalesce(config->>'hidden_act', 'gelu')) AS activation FROM v10.model

-- name: position
SELECT *, NULL::BIGINT AS pos_embed_next, NULL::BIGINT AS pos_embed_top FROM v10.position

-- name: top_candidate
SELECT * REPLACE (split_part(kind::VARCHAR, '_', 1) AS kind), split_part(kind::VARCHAR, '_', 2) AS list FROM v10.list_candidate

-- name: top_entry
SELECT * REPLACE (split_part(kind::VARCHAR, '_', 1) AS kind), split_part(kind::VARCHAR, '_', 2) AS list FROM v10.list_entry

-- name: head_offset
-- Compute the sums of head effects again from the stored rows. Version 10 added them in float32, with rounding errors.
-- The sums computed here are exact, because the values of the rows are integers and decimals.
SELECT h.run_id, h.layer, h.head, h.source_offset, count(*) AS positions, sum(h.attention) AS attention,
       count(h.toward_next) AS effects, sum(h.toward_next) AS effect
FROM v10.head_effect h
JOIN v10.position p ON p.run_id = h.run_id AND p.position_id = h.position_id
JOIN v10.run r ON r.run_id = h.run_id JOIN v10.model m ON m.model_id = r.model_id
JOIN v10.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
WHERE r.status = 'finished' AND (NOT t.is_special OR coalesce((r.settings->>'special_in_lists')::BOOLEAN, false))
GROUP BY h.run_id, h.layer, h.head, h.source_offset ORDER BY h.run_id, h.layer, h.head, h.source_offset

-- name: unit_stat
-- Round the old sums to whole steps. Version 11 stores a sum as a number of steps of 2^-26, and a sum of squares as a
-- number of steps of 2^-20.
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

-- name: contribution
SELECT * RENAME (mlp_rest_next AS mlp_remainder_next, mlp_rest_top AS mlp_remainder_top,
                 mlp_rest_abs_next AS mlp_remainder_abs_next, mlp_rest_abs_top AS mlp_remainder_abs_top) FROM v10.layer_effect

-- name: shard
SELECT * RENAME (layer_effects AS contributions, head_effects AS heads, neuron_effects AS neurons) FROM v10.shard

-- name: bigram_distance
SELECT * RENAME (least_count AS min_count, most_count AS max_count) FROM v10.bigram_distance

-- name: head
FROM v10.head_effect

-- name: neuron
FROM v10.neuron_effect

-- name: top_source
FROM v10.list_source

-- name: neuron_vocabulary
FROM v10.neuron_token

-- name: direct_path
FROM v10.follower

-- name: head_vocabulary
FROM v10.head_output

-- name: head_composition
FROM v10.composition

-- name: next_token_neuron
SELECT * RENAME (longest AS max_tokens, deviations AS std_threshold) FROM v10.lookup
