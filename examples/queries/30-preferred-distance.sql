-- title: Where a head looks when content does not matter
-- question: How far back does a head prefer to look by its weights alone, and how far back is its strongest source on the corpus?
-- why: Rotary embeddings let a head prefer a distance whatever stands there. Where both columns peak together, the head is positional; where the corpus peaks elsewhere, it looks for content. by_weights is the softmax over 64 distances at the mean embedding.
-- parameters: layer = 2; head = 2; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), looks AS (
    SELECT position_id - top_source_position_id AS distance, count(*) AS positions
    FROM heads
    WHERE run_id = (FROM chosen) AND layer = $layer AND head = $head
    GROUP BY distance
)
SELECT d.distance, round(d.score, 3) AS score, round(d.attention, 4) AS by_weights,
       coalesce(l.positions, 0) AS positions,
       round(coalesce(l.positions, 0) / (SELECT sum(positions) FROM looks), 4) AS on_the_corpus
FROM head_distances d
JOIN runs r USING (model_id)
LEFT JOIN looks l USING (distance)
WHERE r.run_id = (FROM chosen) AND d.layer = $layer AND d.head = $head AND d.distance < 32
ORDER BY d.distance
