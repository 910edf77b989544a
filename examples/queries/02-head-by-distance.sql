-- title: A head's behaviour by distance
-- question: How far back is the source that a head attends to most, and what is the head's direct effect on the next token at each distance?
-- why: Tells a previous-token head from one that looks far back, and whether the far looks matter. Every position counts; distance is in stored positions, which are tokens (with a BOS and a stride, one more across a window's edge).
-- parameters: layer = 2; head = 2; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), looks AS (
    SELECT position_id - top_source_position_id AS distance, top_source_attention, toward_next,
           output_norm
    FROM heads
    WHERE run_id = (FROM chosen) AND layer = $layer AND head = $head
), bins AS (
    SELECT CASE WHEN distance < 2 THEN distance
                ELSE 1 << floor(log2(distance))::INTEGER END AS low, *
    FROM looks
)
SELECT low AS distance_from, max(distance) AS longest_found, count(*) AS positions,
       round(count(*) / sum(count(*)) OVER (), 4) AS share,
       round(avg(top_source_attention), 4) AS mean_attention_there,
       round(avg(output_norm), 4) AS mean_output_norm,
       round(avg(toward_next), 4) AS mean_toward_next
FROM bins
GROUP BY low
ORDER BY low
