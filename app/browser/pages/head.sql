-- The heads with the largest effects, the character spans of source tokens, and total effects of units.

-- name: strongest_heads
SELECT layer, head, count, mean_abs_effect, mean_effect, attention_previous, attention_first, attention_induction
FROM head_stats WHERE run_id = $run ORDER BY mean_abs_effect DESC, layer, head LIMIT $limit

-- name: spans
SELECT position_id, char_start, char_end FROM base.position
WHERE run_id = $run AND position_id IN (SELECT unnest($positions))

-- name: effects_of_unit
-- The direct and total effects of one head or neuron, over the samples for which `annotate effects` was run.
FROM unit_effects WHERE run_id = $run AND kind = $kind AND layer = $layer AND unit = $unit
ORDER BY effect_method DESC, replaced_by, sample, seed
