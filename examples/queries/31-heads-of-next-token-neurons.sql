-- title: Heads that are active for next-token neurons
-- question: Which heads tell the prompts of a next-token neuron apart, and is a neuron drawn by chance any different?
-- why: A head that is active on some of a neuron's prompts and not on others has a large share of the neuron's pre-activation in some contexts only (Neo, Cohen and Barez 2024); on all of them it says nothing of the context. Where neurons drawn by chance have as many such heads, the figure is a property of the layer and not of next-token neurons.
-- parameters: low = 0.25; high = 0.75; std_threshold = 2; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), relevant AS (
    FROM relevant_heads(low := $low, high := $high, std_threshold := $std_threshold, run := $run)
), counted AS (
    SELECT l.layer, l.is_baseline, count(DISTINCT l.neuron) AS neurons,
           count(DISTINCT r.neuron) AS neurons_with_such_heads, count(r.source_head) AS heads,
           avg(r.active_fraction) AS mean_active_share,
           min(r.active_fraction) AS min_active_share, max(r.active_fraction) AS max_active_share,
           mode(format('L{}H{}', r.source_layer, r.source_head)) AS commonest_head
    FROM next_token_neurons l LEFT JOIN relevant r USING (run_id, layer, neuron)
    WHERE l.prompts > 0 AND l.run_id = (FROM chosen)
    GROUP BY l.layer, l.is_baseline
), interval AS ( -- Wilson's, 95 %
    SELECT *, (neurons_with_such_heads + 1.92) / (neurons + 3.84) AS middle,
           1.96 / (neurons + 3.84) * sqrt(
               neurons_with_such_heads * (1 - neurons_with_such_heads / neurons) + 0.96
           ) AS margin
    FROM counted
)
SELECT layer, is_baseline, neurons, neurons_with_such_heads,
       round(middle - margin, 3) AS share_from, round(middle + margin, 3) AS share_to, heads,
       round(mean_active_share, 3) AS mean_active_share,
       round(min_active_share, 3) AS min_active_share,
       round(max_active_share, 3) AS max_active_share, commonest_head
FROM interval
ORDER BY layer, is_baseline
