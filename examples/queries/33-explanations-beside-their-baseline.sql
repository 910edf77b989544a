-- title: Whether heads of next-token neurons can be explained
-- question: How well do explanations of the heads that fire next-token neurons foretell other prompts, and how much better than those of neurons drawn by chance?
-- why: A score of its own says little: heads of any neuron can be told apart to some degree by the tokens before it. Neo, Cohen and Barez (2024) published .558 for random neurons of GPT-2 large beside .575 for the chosen ones (the view published_scores has all their figures).
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
)
SELECT coalesce(e.language_model, 'rules') AS explained_by, e.is_baseline, count(*) AS heads,
       count(s.balanced_accuracy) AS scored,
       round(avg(s.balanced_accuracy), 3) AS balanced_accuracy, round(avg(s.f1), 3) AS f1,
       round(any_value(s.baseline), 3) AS baseline, count(*) FILTER (s.beats_baseline) AS beat_it
FROM explanations e LEFT JOIN explanation_scores s USING (explanation_id)
WHERE e.run_id = (FROM chosen)
GROUP BY explained_by, e.is_baseline
ORDER BY explained_by, e.is_baseline
