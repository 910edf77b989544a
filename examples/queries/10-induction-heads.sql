-- title: Induction heads, and the previous-token head before them
-- question: Which heads attend to what followed the present token last time, and which earlier head could tell them where?
-- why: A head that merely looks everywhere gives the duplicates themselves as much, so above_duplicate ranks. An induction head needs a previous-token head in an earlier layer (Olsson et al. 2022): the strongest one is beside it. Induction and duplicate masses are exact over the positions whose token stood before in the window.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), stats AS (
    FROM head_stats SEMI JOIN chosen USING (run_id)
), partner AS (
    SELECT i.layer, i.head, p.layer AS previous_layer, p.head AS previous_head, p.attention_previous
    FROM stats i JOIN stats p ON p.layer < i.layer
    QUALIFY row_number() OVER (PARTITION BY i.layer, i.head
                               ORDER BY p.attention_previous DESC, p.layer, p.head) = 1
)
SELECT i.layer, i.head, round(i.attention_induction, 4) AS attention_induction,
       round(i.attention_duplicate, 4) AS attention_duplicate,
       round(i.attention_induction - i.attention_duplicate, 4) AS above_duplicate,
       i.attention_induction_count AS positions,
       round(i.mean_effect, 4) AS mean_toward_next,
       p.previous_layer, p.previous_head,
       round(p.attention_previous, 4) AS its_attention_previous
FROM stats i LEFT JOIN partner p USING (layer, head)
ORDER BY above_duplicate DESC, i.layer, i.head
LIMIT 20
