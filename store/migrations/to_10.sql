-- Upgrade a store from schema version 9 to 10. Since version 10, the columns model.config, weights.congruence_mean and
-- weights.congruence_std may be NULL.

-- name: bigram_agreement
-- Copy the rows of the runs whose bigram counts are right. Version 9 counted bigrams with special tokens even in runs
-- that exclude special tokens. The rows of runs with this mistake are left out; `annotate weights` computes them again.
FROM v9.bigram_agreement WHERE run_id NOT IN ({with_special})

-- name: bigram_distance
FROM v9.bigram_distance WHERE run_id NOT IN ({with_special})

-- name: with_special
SELECT s.run_id FROM v9.shard s JOIN v9.run r USING (run_id)
WHERE s.special_positions > 0 AND NOT coalesce((r.settings->>'special_in_lists')::BOOLEAN, false)
