-- title: Neurons of a layer that cancel one another
-- question: How much of the direct effects of a layer's neurons on the next token cancels among themselves?
-- why: A small MLP term may be large direct effects that cancel, which a sum hides. Kept neurons are added to mlp_remainder and mlp_remainder_abs, so that every neuron is in both sums, whatever was kept (sizes up to the kept ones' rounding); cancelled is 1 − mean |sum| / mean sum of |terms|.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), kept AS (
    SELECT run_id, position_id, layer, sum(toward_next) AS total, sum(abs(toward_next)) AS total_abs
    FROM neurons
    WHERE run_id = (FROM chosen)
    GROUP BY run_id, position_id, layer
), rests AS (
    SELECT run_id, position_id, layer,
           any_value(toward_next) FILTER (component = 'mlp_remainder') AS rest,
           any_value(toward_next) FILTER (component = 'mlp_remainder_abs') AS rest_abs
    FROM contribution_details
    WHERE run_id = (FROM chosen) AND component IN ('mlp_remainder', 'mlp_remainder_abs')
      AND toward_next IS NOT NULL
    GROUP BY run_id, position_id, layer
), sums AS (
    SELECT r.layer, abs(r.rest + coalesce(k.total, 0)) AS size_of_sum,
           r.rest_abs + coalesce(k.total_abs, 0) AS sum_of_sizes,
           coalesce(k.total_abs, 0) AS kept_abs
    FROM rests r LEFT JOIN kept k USING (run_id, position_id, layer)
)
SELECT layer, count(*) AS positions, round(avg(size_of_sum), 4) AS mean_size_of_sum,
       round(avg(sum_of_sizes), 4) AS mean_sum_of_sizes,
       round(1 - avg(size_of_sum) / avg(sum_of_sizes), 4) AS cancelled,
       round(avg(kept_abs) / avg(sum_of_sizes), 4) AS fraction_kept
FROM sums
GROUP BY layer
ORDER BY layer
