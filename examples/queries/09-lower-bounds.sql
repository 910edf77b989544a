-- title: Positions whose answer is a lower bound
-- question: If terms of at least so many logits are counted, at which positions may one be missing from the store?
-- why: Only the strongest neurons and head-and-source terms are kept, and their largest left-out value is known. A count is exact where that bound is below the threshold, and a lower bound at the positions listed here, the least certain first.
-- parameters: effect = 0.1; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), open AS (
    SELECT position_id, max(next_bound) AS neuron_bound,
           count(*) FILTER (next_bound >= $effect) AS open_layers
    FROM neuron_bounds
    WHERE run_id = (FROM chosen)
    GROUP BY position_id
), uncertain AS (
    SELECT p.run_id, p.position_id, p.token, p.next_token, o.open_layers, o.neuron_bound,
           p.source_bound, greatest(o.neuron_bound, p.source_bound) AS bound
    FROM positions p JOIN open o USING (position_id)
    WHERE p.next_token_id IS NOT NULL AND bound >= $effect
    ORDER BY bound DESC, p.position_id
    LIMIT 30
), kept_neurons AS (
    SELECT position_id, count(*) AS kept
    FROM neurons SEMI JOIN uncertain USING (run_id, position_id)
    WHERE abs(toward_next) >= $effect
    GROUP BY position_id
), kept_sources AS (
    SELECT position_id, count(*) AS kept
    FROM head_sources SEMI JOIN uncertain USING (run_id, position_id)
    WHERE abs(toward_next) >= $effect
    GROUP BY position_id
)
SELECT u.position_id, u.token, u.next_token,
       coalesce(n.kept, 0) AS neurons_at_least, u.neuron_bound >= $effect AS neurons_may_miss,
       u.open_layers, u.neuron_bound,
       coalesce(s.kept, 0) AS sources_at_least, u.source_bound >= $effect AS sources_may_miss,
       u.source_bound
FROM uncertain u
LEFT JOIN kept_neurons n USING (position_id)
LEFT JOIN kept_sources s USING (position_id)
ORDER BY u.bound DESC, u.position_id
