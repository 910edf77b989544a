-- title: Tokens on which one component has most of the direct effect
-- question: Which tokens does the model predict rightly while one component has most of the positive direct effect, and which component?
-- why: Where one layer's attention, MLP or the embedding has most of the positive direct effect on the right token, the decomposition is short enough to read. The share is of the sum of all positive terms of contributions, so that terms which cancel do not inflate it.
-- parameters: share = 0.5; occurrences = 3; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), correct AS (
    SELECT run_id, position_id, next_token,
           count(*) OVER (PARTITION BY next_token_id) AS predictions
    FROM positions
    WHERE run_id = (FROM chosen) AND next_token_id = top_token_id
), terms AS (
    SELECT p.next_token, p.predictions, p.position_id, c.component, c.layer,
           c.toward_next / nullif(sum(greatest(c.toward_next, 0)) OVER one_position, 0) AS share
    FROM correct p JOIN contributions c USING (run_id, position_id)
    WINDOW one_position AS (PARTITION BY p.position_id)
)
SELECT next_token, component, layer, count(*) AS mainly_by_it, predictions AS right_predictions,
       round(count(*) / predictions, 3) AS of_right_predictions,
       round(avg(share), 3) AS mean_share_there, min(position_id) AS first_position_id
FROM terms
WHERE share >= $share
GROUP BY next_token, component, layer, predictions
HAVING count(*) >= $occurrences
ORDER BY mainly_by_it DESC, of_right_predictions DESC, next_token, component, layer
LIMIT 30
