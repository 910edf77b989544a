-- The heads with the largest effects, and the character spans of source tokens.

-- name: strongest_heads
SELECT layer, head, mean_abs_effect, mean_effect, attention_previous, attention_first, attention_induction
FROM head_stats WHERE run_id = $run ORDER BY mean_abs_effect DESC, layer, head LIMIT $limit

-- name: spans
SELECT position_id, char_start, char_end FROM base.position
WHERE run_id = $run AND position_id IN (SELECT unnest($positions))
