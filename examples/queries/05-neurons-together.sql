-- title: Neurons that are active together
-- question: Which two neurons have their strongest activations at the same positions?
-- why: Neurons that share their occasions may carry one feature between them; pairs that share fewer than so many distinct tokens only mark a token and are left out. Shared tops are exact over the whole run, the correlation is over its uniform sample, beside the largest |r| of these pairs when one neuron's values are permuted.
-- parameters: top = 30; tokens = 3; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), tops AS (
    SELECT t.layer, t.neuron, t.position_id, p.token_id
    FROM neuron_top t JOIN positions p USING (run_id, position_id)
    WHERE t.run_id = (FROM chosen) AND t.side = 'high' AND t.rank <= $top AND t.activation > 0
), pairs AS (
    SELECT a.layer, a.neuron, b.layer AS other_layer, b.neuron AS other_neuron,
           count(*) AS shared, count(DISTINCT a.token_id) AS distinct_tokens
    FROM tops a JOIN tops b USING (position_id)
    WHERE (a.layer, a.neuron) < (b.layer, b.neuron)
    GROUP BY a.layer, a.neuron, b.layer, b.neuron
    HAVING distinct_tokens >= $tokens
    ORDER BY shared DESC, distinct_tokens DESC, a.layer, a.neuron, b.layer, b.neuron
    LIMIT 30
), samples AS (
    SELECT layer, neuron, position_id, value
    FROM neuron_samples
    WHERE run_id = (FROM chosen)
      AND (layer, neuron) IN (SELECT (layer, neuron) FROM pairs
                              UNION ALL SELECT (other_layer, other_neuron) FROM pairs)
), places AS (
    SELECT position_id, row_number() OVER (ORDER BY position_id) AS place,
           row_number() OVER (ORDER BY hash(position_id), position_id) AS permuted
    FROM (SELECT DISTINCT position_id FROM samples)
), placed AS (
    SELECT * FROM samples JOIN places USING (position_id)
), correlated AS (
    SELECT p.layer, p.neuron, p.other_layer, p.other_neuron, p.shared AS shared_tops,
           p.distinct_tokens, corr(a.value, b.value) AS r, regr_count(a.value, b.value) AS n,
           corr(a.value, c.value) AS permuted
    FROM pairs p
    LEFT JOIN placed a ON a.layer = p.layer AND a.neuron = p.neuron
    LEFT JOIN placed b
      ON b.layer = p.other_layer AND b.neuron = p.other_neuron AND b.place = a.place
    LEFT JOIN placed c
      ON c.layer = p.other_layer AND c.neuron = p.other_neuron AND c.permuted = a.place
    GROUP BY ALL
)
SELECT layer, neuron, other_layer, other_neuron, shared_tops, distinct_tokens,
       round(r, 3) AS correlation_in_sample, n AS positions,
       round(max(abs(permuted)) OVER (), 3) AS largest_permuted
FROM correlated
ORDER BY shared_tops DESC, distinct_tokens DESC, layer, neuron, other_layer, other_neuron
