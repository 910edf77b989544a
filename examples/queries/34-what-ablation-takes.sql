-- title: What a neuron loses without a head
-- question: Does setting a relevant head's output to zero lower the neuron's activation where the head is active, and leave it where it is not?
-- why: That a head's share of the pre-activation is large is arithmetic; that the neuron falls without it is an intervention. Where the falls on active and inactive prompts are distributed alike (a distance near 0, or a p-value that is not) the head does not tell them apart, whatever its explanation says.
-- parameters: run = NULL; rows = 20
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
)
SELECT a.layer, a.neuron, l.next_token, a.is_baseline, a.source_layer, a.source_head,
       a.active_prompts, a.inactive_prompts,
       round(a.activation_fall_active, 3) AS fall_where_active,
       round(a.activation_margin_active, 3) AS margin_where_active,
       round(a.activation_fall_inactive, 3) AS fall_elsewhere,
       round(a.activation_margin_inactive, 3) AS margin_elsewhere,
       round(a.activation_distance, 3) AS activation_distance,
       round(a.activation_p, 4) AS activation_p,
       round(a.probability_distance, 3) AS probability_distance,
       round(a.probability_p, 4) AS probability_p, e.text AS explanation
FROM ablations a JOIN next_token_neurons l USING (run_id, layer, neuron)
LEFT JOIN explanations e
  ON e.run_id = a.run_id AND e.layer = a.layer AND e.neuron = a.neuron
 AND e.source_layer = a.source_layer AND e.source_head = a.source_head
 AND e.method = 'decision_list'
WHERE a.run_id = (FROM chosen)
ORDER BY a.activation_p, a.activation_distance DESC,
         a.layer, a.neuron, a.source_layer, a.source_head
LIMIT $rows
