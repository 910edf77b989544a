-- title: A neuron's strongest contexts beside random ones
-- question: Does what the strongest contexts have in common also hold where nobody chose the example?
-- why: Top examples alone make neurons look cleaner than they are (Bolukbasi et al. 2021). The others are drawn at random from the run's uniform sample: some where the activation is above zero, some where it is not.
-- parameters: layer = 2; neuron = 159; examples = 8; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), strongest AS (
    SELECT '1 strongest' AS chosen_as, rank AS place, position_id, activation
    FROM neuron_top
    WHERE run_id = (FROM chosen) AND layer = $layer AND neuron = $neuron AND side = 'high'
      AND rank <= $examples
), drawn AS (
    SELECT CASE WHEN value > 0 THEN '2 random, active' ELSE '3 random, inactive' END AS chosen_as,
           row_number() OVER (PARTITION BY value > 0
                              ORDER BY md5(position_id::VARCHAR), position_id) AS place,
           position_id, value AS activation
    FROM neuron_samples
    WHERE run_id = (FROM chosen) AND layer = $layer AND neuron = $neuron
    QUALIFY place <= $examples
), examples AS (
    FROM strongest UNION ALL FROM drawn
)
SELECT e.chosen_as, e.place, round(e.activation::DOUBLE, 3) AS activation, e.position_id,
       c.before, c.token, c.after
FROM examples e, LATERAL (FROM context(e.position_id, 10, 5)) c
ORDER BY e.chosen_as, e.place
LIMIT 50
