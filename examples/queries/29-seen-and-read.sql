-- title: How heads attend, beside what their weights say
-- question: Do the heads that behave like induction or previous-token heads on text also do so on random tokens, and would one have found them in the weights?
-- why: Text rewards what merely looks like a circuit; random tokens have no text to help (Olsson et al. 2022), and the weights no tokens at all. weights_induction and copying_z are in standard deviations of randomly rotated weights. Ranks are among the model's heads, 1 the strongest. A head that ranks high in text alone attends by another rule.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
)
SELECT layer, head,
       round(corpus_induction, 4) AS corpus_induction,
       round(random_induction, 4) AS random_induction,
       round(weights_induction, 4) AS weights_induction,
       rank() OVER (ORDER BY weights_induction DESC NULLS LAST) AS induction_rank_by_weights,
       round(corpus_previous, 4) AS corpus_previous, round(random_previous, 4) AS random_previous,
       round(weights_previous, 4) AS weights_previous,
       rank() OVER (ORDER BY weights_previous DESC) AS previous_rank_by_weights,
       round(copying, 3) AS copying, round(copying_z, 1) AS copying_z
FROM head_behaviour
WHERE run_id = (FROM chosen)
ORDER BY random_induction DESC, layer, head
LIMIT 20
