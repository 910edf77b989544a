-- title: Loss by position in the window
-- question: How much does the model gain from context: what is its loss at each place in the window?
-- why: The slope is what all use of context together is worth, and the first places show what the model does without any. Bins double in width; a window that cuts a document begins without its context too.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), places AS (
    SELECT CASE WHEN position < 2 THEN position ELSE 1 << floor(log2(position))::INTEGER END AS low,
           position, next_logprob, next_rank, entropy
    FROM positions
    WHERE run_id = (FROM chosen) AND next_logprob IS NOT NULL
)
SELECT low AS position_from, max(position) AS position_to, count(*) AS positions,
       round(-avg(next_logprob), 4) AS mean_loss,
       round(avg((next_rank = 1)::INTEGER), 4) AS share_right,
       round(avg(entropy), 4) AS mean_entropy
FROM places
GROUP BY low
ORDER BY low
