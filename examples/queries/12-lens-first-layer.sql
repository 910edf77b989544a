-- title: At which layer the final answer first becomes the lens's first choice
-- question: After which block does the logit lens first choose what the model will choose, and from which on does it stay?
-- why: Where the lens stays with one answer from an early block on, the direct effects of later layers do not change it. Needs a run with --lens; each layer is read out with its own scale, and the last one is the model's own answer.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), agreement AS (
    SELECT l.position_id, l.layer, l.top_token_id = p.top_token_id AS agrees, p.top_logprob
    FROM lens l JOIN positions p USING (run_id, position_id)
    WHERE l.run_id = (FROM chosen)
), decided AS (
    SELECT position_id, any_value(top_logprob) AS top_logprob,
           min(layer) FILTER (agrees) AS first_layer,
           coalesce(max(layer) FILTER (NOT agrees) + 1, 0) AS settled_layer
    FROM agreement
    GROUP BY position_id
), layers AS (
    SELECT DISTINCT layer FROM agreement
)
SELECT l.layer, count(*) FILTER (d.first_layer = l.layer) AS first_here,
       count(*) FILTER (d.settled_layer = l.layer) AS settled_here,
       round(avg((d.first_layer <= l.layer)::INTEGER), 4) AS share_first_by_here,
       round(avg((d.settled_layer <= l.layer)::INTEGER), 4) AS share_settled_by_here,
       round(avg(exp(d.top_logprob)) FILTER (d.settled_layer = l.layer), 4)
           AS mean_probability_settled_here
FROM layers l, decided d
GROUP BY l.layer
ORDER BY l.layer
