-- title: Neurons with the largest direct effects on a token, and the heads beside them
-- question: Which neurons have the largest mean direct effect on a token where it is next, and which head has the largest on the same predictions?
-- why: A neuron that promotes one token is a first guess at what it stands for, and the head beside it has the largest mean direct effect on the same predictions. Only kept rows of a neuron are summed: its mean over all these predictions lies within ± uncertainty of mean_kept.
-- parameters: token = ' the'; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), predicted AS (
    SELECT position_id FROM positions WHERE run_id = (FROM chosen) AND next_token = $token
), bounds AS (
    SELECT position_id, layer, next_bound,
           count(*) OVER (PARTITION BY layer) AS predictions,
           sum(next_bound) OVER (PARTITION BY layer) AS layer_bound
    FROM neuron_bounds SEMI JOIN predicted USING (position_id)
), strongest AS (
    SELECT n.layer, n.neuron, any_value(b.predictions) AS predictions, count(*) AS kept_at,
           round(sum(n.toward_next) / any_value(b.predictions), 4) AS mean_kept,
           (any_value(b.layer_bound) - sum(b.next_bound)) / any_value(b.predictions) AS uncertainty
    FROM neurons n JOIN bounds b USING (position_id, layer)
    GROUP BY n.layer, n.neuron
    ORDER BY mean_kept DESC, n.layer, n.neuron
    LIMIT 10
), beside AS (
    SELECT u.layer, u.neuron, h.layer AS head_layer, h.head, round(avg(h.toward_next), 4) AS mean
    FROM strongest u
    JOIN neurons n USING (layer, neuron)
    SEMI JOIN predicted ON predicted.position_id = n.position_id
    JOIN heads h ON h.position_id = n.position_id
    GROUP BY u.layer, u.neuron, h.layer, h.head
    QUALIFY row_number() OVER (PARTITION BY u.layer, u.neuron
                               ORDER BY mean DESC, h.layer, h.head) = 1
)
SELECT u.layer, u.neuron, u.mean_kept, round(u.uncertainty, 4) AS uncertainty, u.kept_at,
       u.predictions, b.head_layer, b.head, b.mean AS head_mean_where_kept
FROM strongest u JOIN beside b USING (layer, neuron)
ORDER BY u.mean_kept DESC, u.layer, u.neuron
