-- title: Dead neurons
-- question: Which neurons are never active on this corpus, or all but never?
-- why: In a model without gated neurons, a dead neuron writes only the activation function's small negative values (of GELU, never below -0.17) and can mostly be left out of a search; on another corpus it may live. Exact over every position; dead means that no activation is above zero.
-- parameters: share = 0.001; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), quiet AS (
    SELECT layer, neuron, max <= 0 AS is_dead, max, fraction_positive, mean_abs_effect, count,
           count(*) FILTER (max <= 0) OVER (PARTITION BY layer) AS dead_in_layer,
           count(*) OVER (PARTITION BY layer) AS neurons_in_layer
    FROM neuron_stats
    WHERE run_id = (FROM chosen)
)
SELECT layer, neuron, is_dead, round(max::DOUBLE, 6) AS highest_activation,
       round(fraction_positive * count)::BIGINT AS times_positive, count AS positions,
       round(mean_abs_effect, 6) AS mean_abs_toward_next, dead_in_layer, neurons_in_layer
FROM quiet
WHERE fraction_positive <= $share
ORDER BY max, layer, neuron
LIMIT 50
