-- title: Tokens with the highest loss
-- question: Which tokens does the model fail to expect, and which of them cost it most in all?
-- why: The mean shows what is hard, the share of the run's whole loss what would pay to understand. Only tokens that follow often enough are ranked; median_rank is over their occurrences.
-- parameters: occurrences = 5; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), losses AS (
    SELECT next_token, -next_logprob AS loss, next_rank,
           sum(-next_logprob) OVER () AS loss_of_run
    FROM positions
    WHERE run_id = (FROM chosen) AND next_logprob IS NOT NULL
)
SELECT next_token, count(*) AS occurrences, round(avg(loss), 4) AS mean_loss,
       round(min(loss)::DOUBLE, 4) AS lowest_loss, quantile_disc(next_rank, 0.5) AS median_rank,
       round(sum(loss) / any_value(loss_of_run), 5) AS share_of_all_loss
FROM losses
GROUP BY next_token
HAVING count(*) >= $occurrences
ORDER BY mean_loss DESC, next_token
LIMIT 30
