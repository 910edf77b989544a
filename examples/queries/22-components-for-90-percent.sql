-- title: How many components reach 90 % of a logit
-- question: How many of the strongest components together reach nine tenths of the first choice's logit?
-- why: Where few components have most of the direct effect, the decomposition can be read by hand; the distribution says how many there are. Components are those of contributions (embedding, each layer's attention and MLP, final bias), taken from the most positive down; positions whose logit is not positive are left out.
-- parameters: share = 0.9; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), terms AS (
    SELECT c.position_id, p.top_logit, p.top_logprob,
           row_number() OVER strongest AS components,
           sum(c.toward_top) OVER strongest AS reached
    FROM contributions c JOIN positions p USING (run_id, position_id)
    WHERE c.run_id = (FROM chosen) AND p.top_logit > 0
    WINDOW strongest AS (PARTITION BY c.position_id
                         ORDER BY c.toward_top DESC, c.component, c.layer
                         ROWS UNBOUNDED PRECEDING)
), needed AS (
    SELECT position_id, any_value(top_logprob) AS top_logprob,
           min(components) FILTER (reached >= $share * top_logit) AS components
    FROM terms
    GROUP BY position_id
)
SELECT components, count(*) AS predictions,
       round(count(*) / sum(count(*)) OVER (), 4) AS of_predictions,
       round(sum(count(*)) OVER (ORDER BY components) / sum(count(*)) OVER (), 4) AS share_so_far,
       round(avg(exp(top_logprob)), 4) AS mean_probability
FROM needed
GROUP BY components
ORDER BY components
