-- title: The embedding's direct effect on the next token
-- question: After which token does the embedding have the largest direct effect on the next token?
-- why: The direct path from embedding to logits can only hold bigram statistics, so this direct effect needs no circuit. Its term is shown beside the whole centred logit at the same positions; mean_all_else is the direct effect of all layers and the final bias.
-- parameters: occurrences = 3; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
)
SELECT p.token, p.next_token, count(*) AS occurrences,
       round(avg(c.toward_next), 3) AS mean_embed,
       round(avg(p.next_logit - c.toward_next), 3) AS mean_all_else,
       round(avg(p.next_logit), 3) AS mean_logit,
       round(avg((p.next_token_id = p.top_token_id)::INTEGER), 3) AS share_right
FROM positions p JOIN contributions c USING (run_id, position_id)
WHERE p.run_id = (FROM chosen) AND c.component = 'embed' AND p.next_token_id IS NOT NULL
GROUP BY p.token, p.next_token
HAVING count(*) >= $occurrences
ORDER BY mean_embed DESC, p.token, p.next_token
LIMIT 30
