-- title: Whether heads of next-token neurons can be explained
-- question: How well do explanations of the heads that are active for next-token neurons foretell other prompts, and how much better than those of neurons drawn by chance?
-- why: A score of its own says little: heads of any neuron can be told apart to some degree by the tokens before it. Neo, Cohen and Barez (2024) published .558 for random neurons of GPT-2 large beside .575 for the chosen ones (the view published_scores has all their figures). Whether a single explanation beats the baseline, `annotate explain` says.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
)
SELECT coalesce(language_model, 'rules') AS explained_by, is_baseline, figure::VARCHAR AS figure,
       heads, neurons, active_prompts, inactive_prompts, round(mean, 3) AS mean,
       coalesce(format('{:.2f} to {:.2f}', low, high), 'none: a single neuron') AS interval_95
FROM explanation_means
WHERE run_id = (FROM chosen) AND figure IN ('balanced_accuracy', 'f1')
ORDER BY explained_by, figure, is_baseline
