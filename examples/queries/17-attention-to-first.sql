-- title: Attention to the first position
-- question: Which heads rest on the window's first position, and do they write less when they do?
-- why: A head that attends to the first position often writes little there (an attention sink): then its output is smaller. Mean attention is exact over the run; at rest means that no source has more attention than the window's first.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), firsts AS ( -- a stride's first position is stored in an earlier window
    SELECT window_id, arg_min(position_id - position, position) AS first_position_id
    FROM positions
    WHERE run_id = (FROM chosen)
    GROUP BY window_id
), looks AS (
    SELECT h.layer, h.head, h.output_norm, abs(h.toward_next) AS effect,
           h.top_source_position_id = f.first_position_id AS at_rest
    FROM heads h JOIN positions p USING (run_id, position_id) JOIN firsts f USING (window_id)
    WHERE h.run_id = (FROM chosen) AND NOT p.is_first
), resting AS (
    SELECT layer, head, count(*) AS positions, count(*) FILTER (at_rest) AS at_rest,
           avg(output_norm) FILTER (at_rest) AS norm_at_rest,
           avg(output_norm) FILTER (NOT at_rest) AS norm_else,
           avg(effect) FILTER (at_rest) AS effect_at_rest,
           avg(effect) FILTER (NOT at_rest) AS effect_else
    FROM looks
    GROUP BY layer, head
)
SELECT s.layer, s.head, round(s.attention_first, 4) AS attention_first, r.positions, r.at_rest,
       round(r.norm_at_rest, 3) AS mean_norm_at_rest, round(r.norm_else, 3) AS mean_norm_else,
       round(r.effect_at_rest, 4) AS mean_abs_toward_next_at_rest,
       round(r.effect_else, 4) AS mean_abs_toward_next_else
FROM head_stats s JOIN resting r USING (layer, head)
WHERE s.run_id = (FROM chosen)
ORDER BY s.attention_first DESC, s.layer, s.head
LIMIT 50
