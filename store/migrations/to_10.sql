-- From schema version 9 to 10.
-- Since version 10, model.config, weights.congruence_mean and weights.congruence_std may be NULL.

-- name: bigram_agreement
-- Version 9 counted bigrams of special tokens even if the run's lists exclude special tokens. The rows of such runs are
-- dropped; `annotate weights` computes them again.
FROM v9.bigram_agreement WHERE run_id NOT IN ({with_special})

-- name: bigram_distance
FROM v9.bigram_distance WHERE run_id NOT IN ({with_special})

-- name: with_special
SELECT s.run_id FROM v9.shard s JOIN v9.run r USING (run_id)
WHERE s.special_positions > 0 AND NOT coalesce((r.settings->>'special_in_lists')::BOOLEAN, false)
