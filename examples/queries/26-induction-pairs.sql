-- title: Induction pairs: an induction head and the earlier heads that its keys can read
-- question: When a head took from the token after an earlier occurrence of the present one, which earlier head had written there what stood before it, and do its keys read that head?
-- why: An induction head needs another head's output in its keys (Olsson et al. 2022). The corpus gives the places where both attend that way, the weights say whether the one can read the other: the z of K-composition, in standard deviations of randomly rotated weights. Both should be high. Of each position only the strongest sources are kept, so places is a lower bound.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), here AS (
    SELECT position_id, window_id, token_id FROM positions WHERE run_id = (FROM chosen)
), induced AS (
    SELECT s.layer, s.head, s.source_position_id, s.toward_next
    FROM head_sources s
    JOIN here p USING (position_id)
    JOIN here before ON before.position_id = s.source_position_id - 1
                    AND before.window_id = p.window_id AND before.token_id = p.token_id
    WHERE s.run_id = (FROM chosen) AND s.source_position_id < s.position_id
), met AS (
    SELECT i.layer, i.head, e.layer AS earlier_layer, e.head AS earlier_head,
           count(*) AS places, sum(i.toward_next) AS toward_next
    FROM induced i
    JOIN heads e ON e.position_id = i.source_position_id
                AND e.top_source_position_id = e.position_id - 1 AND e.layer < i.layer
    GROUP BY ALL
)
SELECT m.layer, m.head, m.earlier_layer, m.earlier_head, m.places,
       round(m.toward_next, 2) AS toward_next, round(c.score, 4) AS k_composition,
       round(c.z, 1) AS z, round(c.by_chance, 2) AS pairs_by_chance
FROM met m
JOIN head_composition c USING (layer, head, earlier_layer, earlier_head)
JOIN runs r USING (model_id)
WHERE c.kind = 'K' AND r.run_id = (FROM chosen)
ORDER BY m.toward_next * c.z DESC, m.layer, m.head, m.earlier_layer, m.earlier_head
LIMIT 20
