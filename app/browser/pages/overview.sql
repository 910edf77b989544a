-- The mean loss by position in the window.

-- name: loss_by_position
SELECT position, -avg(next_logprob) AS loss, count(*) AS positions FROM base.position
WHERE run_id = $run AND next_logprob IS NOT NULL GROUP BY position ORDER BY position
