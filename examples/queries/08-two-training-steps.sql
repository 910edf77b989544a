-- title: The same position at two training steps
-- question: Which predictions did training change most between two checkpoints, in the probability of what followed?
-- why: Positions that gain far more than the average show what was learned between the steps. Runs over one corpus that cut it alike join on document, window and position; by default the earliest and the latest step of the latest run's model.
-- parameters: early = NULL; late = NULL
WITH latest AS (
    SELECT arg_max(model, finished) AS model, arg_max(corpus_id, finished) AS corpus_id
    FROM runs WHERE status = 'finished'
), pair AS (
    SELECT coalesce($early, arg_min(run_id, (step, -run_id))) AS early,
           coalesce($late, arg_max(run_id, (step, run_id))) AS late
    FROM runs SEMI JOIN latest USING (model, corpus_id)
    WHERE status = 'finished' AND step IS NOT NULL
    HAVING early <> late
), compared AS (
    SELECT b.document_id, b.window_id, b.position, b.token, b.next_token,
           exp(a.next_logprob) AS early, exp(b.next_logprob) AS late,
           (b.next_logprob - a.next_logprob)::DOUBLE AS gained,
           a.next_rank AS rank_early, b.next_rank AS rank_late,
           a.top_token AS first_choice_early, b.top_token AS first_choice_late
    FROM positions a
    JOIN positions b USING (document_id, window_id, position, token_id, next_token_id)
    WHERE a.run_id = (SELECT early FROM pair) AND b.run_id = (SELECT late FROM pair)
)
SELECT document_id, window_id, position, token, next_token,
       round(early, 4) AS probability_early, round(late, 4) AS probability_late,
       round(gained, 3) AS gained_nats, rank_early, rank_late, first_choice_early, first_choice_late
FROM compared
ORDER BY abs(late - early) DESC, document_id, window_id, position
LIMIT 30
