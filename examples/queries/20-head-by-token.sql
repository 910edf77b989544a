-- title: A head's mean effect by token
-- question: On which next tokens is a head's mean direct effect largest, and on which is it smallest?
-- why: A head that copies names, closes brackets or suppresses repetition shows in the tokens on which it has a direct effect. All heads are kept at every position, so the means are exact over all occurrences; both ends of the list are shown.
-- parameters: layer = 3; head = 2; occurrences = 5; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), means AS (
    SELECT p.next_token, count(*) AS occurrences, round(avg(h.toward_next), 4) AS mean_toward_next,
           round(stddev_pop(h.toward_next), 4) AS spread,
           round(avg((h.toward_next > 0)::INTEGER), 3) AS fraction_positive,
           round(avg(p.next_logit), 4) AS mean_logit
    FROM positions p JOIN heads h USING (run_id, position_id)
    WHERE p.run_id = (FROM chosen) AND h.layer = $layer AND h.head = $head
      AND p.next_token_id IS NOT NULL
    GROUP BY p.next_token
    HAVING count(*) >= $occurrences
)
SELECT *
FROM means
QUALIFY row_number() OVER (ORDER BY mean_toward_next DESC, next_token) <= 20
     OR row_number() OVER (ORDER BY mean_toward_next, next_token) <= 20
ORDER BY mean_toward_next DESC, next_token
