-- Questions about single neurons: drawn from a store with all neurons, then asked of stores with fewer neurons.

-- name: draw
-- Draws the questions from the store with all neurons.
-- A question is: is this neuron's value at this position above x? x is another neuron's or position's value, in the
-- same layer. is_high: whether abs(x) is among the largest tenth of the layer.
CREATE TABLE question AS
WITH place AS (
    FROM kept.neurons WHERE toward_next IS NOT NULL USING SAMPLE {n} ROWS (reservoir, 0)
), truth AS (
    SELECT position_id, layer, neuron, unnest(['activation', 'next', 'top']) AS quantity,
           unnest([activation, toward_next, toward_top]) AS value
    FROM place
)
SELECT *, abs(x) >= quantile_cont(abs(x), 0.9) OVER (PARTITION BY layer, quantity) AS is_high
FROM (SELECT *, lead(value) OVER (PARTITION BY layer, quantity ORDER BY hash(position_id, neuron)) AS x
      FROM truth)
WHERE x IS NOT NULL

-- name: ask
-- Answers each question from the neuron's row or, if the neuron has no row, from the bound; NULL if neither decides.
WITH stored AS (
    SELECT q.*, CASE q.quantity WHEN 'activation' THEN n.activation WHEN 'next' THEN n.toward_next
                                ELSE n.toward_top END AS found,
           CASE q.quantity WHEN 'activation' THEN b.activation_bound WHEN 'next' THEN b.next_bound
                           ELSE b.top_bound END AS bound
    FROM question q
    JOIN kept.neuron_bounds b USING (position_id, layer)
    LEFT JOIN kept.neurons n USING (position_id, layer, neuron)
), answered AS (
    SELECT *, CASE WHEN found IS NOT NULL THEN found > x WHEN x >= bound THEN false
                   WHEN x < -bound THEN true END AS answer
    FROM stored
)
SELECT avg((answer IS NOT NULL)::INTEGER) FILTER (quantity = 'activation') AS activations,
       avg((answer IS NOT NULL)::INTEGER) FILTER (quantity <> 'activation') AS effects,
       avg((answer IS NOT NULL)::INTEGER) FILTER (quantity = 'activation' AND is_high) AS high_activations,
       avg((answer IS NOT NULL)::INTEGER) FILTER (quantity <> 'activation' AND is_high) AS high_effects,
       count(*) FILTER (answer <> (value > x)) AS wrong
FROM answered
