-- title: The runs and how well their terms add up
-- question: What is in this store, and do the stored terms sum to the model's logits?
-- why: Every other answer rests on this one: an error far above float32's rounding would mean that a decomposition is wrong. Errors are |sum of terms − logit| in logits, the worse of both targets at each position.
-- parameters: none
SELECT r.run_id, r.model, r.revision, r.step, r.status, r.tokens, c.n_layers,
       c.median AS median_error, c.p99 AS p99_error, c.worst AS worst_error,
       coalesce(r.settings ->> 'keep_neurons', 'all') AS keep_neurons, r.finished, r.corpus
FROM runs r JOIN closure c USING (run_id)
ORDER BY r.run_id
