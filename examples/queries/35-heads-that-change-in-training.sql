-- title: Heads that change most in training
-- question: Which heads change most over the annotated training steps, and between which two neighbouring steps?
-- why: A head that takes on its function does so within few steps (Olsson et al. 2022 for induction heads). The largest change between neighbouring steps says where to annotate more steps.
-- parameters: statistic = 'corpus_induction'; rows = 10
WITH latest AS (
    SELECT arg_max(model, finished) AS model, arg_max(corpus_id, finished) AS corpus_id
    FROM runs WHERE status = 'finished'
), curve AS (
    SELECT e.layer, e.head, e.step, e.value
    FROM emergence e SEMI JOIN latest USING (model, corpus_id)
    WHERE e.statistic = $statistic AND e.head IS NOT NULL
), changed AS (
    SELECT *, lag(step) OVER of_head AS step_before, value - lag(value) OVER of_head AS change
    FROM curve WINDOW of_head AS (PARTITION BY layer, head ORDER BY step)
)
SELECT layer, head, round(arg_min(value, step), 4) AS first, round(arg_max(value, step), 4) AS last,
       arg_max(step_before, abs(change)) AS after_step, arg_max(step, abs(change)) AS by_step,
       round(arg_max(change, abs(change)), 4) AS largest_change
FROM changed
GROUP BY layer, head
ORDER BY abs(largest_change) DESC, layer, head
LIMIT $rows
