-- title: Calibration of the model's confidence
-- question: When the model gives its first choice a probability, how often is it right?
-- why: A calibrated model is right as often as it says; the gap tells where confidence misleads. expected_error sums to the expected calibration error over the bins (Naeini et al. 2015).
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), choices AS (
    SELECT exp(top_logprob) AS confidence, (next_token_id = top_token_id)::INTEGER AS is_right
    FROM positions
    WHERE run_id = (FROM chosen) AND next_token_id IS NOT NULL
)
SELECT least(floor(confidence * 10), 9) / 10 AS confidence_from, count(*) AS predictions,
       round(avg(confidence), 4) AS mean_confidence, round(avg(is_right), 4) AS share_right,
       round(avg(confidence) - avg(is_right), 4) AS overconfidence,
       round(abs(sum(confidence - is_right)) / sum(count(*)) OVER (), 5) AS expected_error
FROM choices
GROUP BY confidence_from
ORDER BY confidence_from
