-- Next-token neurons, their prompts, and the explanations of their heads.

-- name: next_token_neurons
-- The next-token neurons and the baseline neurons, sorted by congruence, the largest first.
SELECT l.*, count(DISTINCT (r.source_layer, r.source_head)) FILTER (r.source_head IS NOT NULL) AS relevant_heads
FROM next_token_neurons l
LEFT JOIN relevant_heads(run := $run) r USING (run_id, layer, neuron)
WHERE l.run_id = $run
GROUP BY ALL ORDER BY l.congruence DESC, l.layer, l.neuron

-- name: scores
-- The mean scores of this run's explanations, by rules and by each language model, and published scores.
FROM (
    SELECT coalesce(b.language_model, 'rules') AS explained_by, b.is_baseline, b.heads, b.neurons, b.active_prompts, b.inactive_prompts,
           b.mean AS balanced_accuracy, b.low AS balanced_accuracy_low, b.high AS balanced_accuracy_high,
           f.mean AS f1, f.low AS f1_low, f.high AS f1_high
    FROM explanation_means b JOIN explanation_means f
      ON f.figure = 'f1' AND f.run_id = b.run_id AND f.method = b.method AND f.is_baseline = b.is_baseline
     AND f.language_model IS NOT DISTINCT FROM b.language_model AND f.prompt_version IS NOT DISTINCT FROM b.prompt_version
    WHERE b.run_id = $run AND b.figure = 'balanced_accuracy'
    UNION ALL BY NAME
    SELECT 'published: ' || model AS explained_by, is_baseline, balanced_accuracy FROM published_scores
)
ORDER BY heads IS NULL, explained_by, is_baseline

-- name: neuron_prompts
-- A neuron's distinct prompts, each with the number of windows from which it was made.
SELECT *, count(*) OVER (PARTITION BY coalesce(duplicate_of, prompt)) AS windows FROM prompts
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER
QUALIFY duplicate_of IS NULL ORDER BY prompt

-- name: prompt_tokens
-- The tokens of the prompts, with the neuron's activation in the corpus, where more text precedes the prompt. This
-- activation is stored at a prompt's last token (neuron_windows), and at other tokens if the neuron is stored.
WITH asked AS (
    SELECT prompt, position_id AS last, window_activation,
           unnest(generate_series(first_position_id, position_id)) AS position_id
    FROM prompts
    WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER AND duplicate_of IS NULL
)
SELECT a.prompt, a.position_id, p.token, p.char_start, p.char_end, {its_text}, if(a.position_id = a.last, a.window_activation, n.activation) AS value,
       b.activation_bound AS bound
FROM asked a
JOIN positions p ON p.run_id = $run AND p.position_id = a.position_id
{passage}
JOIN neuron_bounds b ON b.run_id = $run AND b.layer = $layer::UTINYINT AND b.position_id = a.position_id
LEFT JOIN neurons n ON n.run_id = $run AND n.position_id = a.position_id
                   AND n.layer = $layer::UTINYINT AND n.neuron = $neuron::UINTEGER
WHERE p.char_start IS NOT NULL  -- leaves out the BOS of a later window
ORDER BY a.prompt, a.position_id

-- name: head_shares
-- One row per earlier head and prompt: the head's share of the pre-activation. The relevant heads come first, then the
-- other heads, sorted by the number of prompts on which they are active.
SELECT i.prompt, i.source_layer AS layer, i.source_head AS head, i.value,
       a.prompt IS NOT NULL AS is_active, r.active_fraction,
       count(a.prompt) OVER (PARTITION BY i.source_layer, i.source_head) AS active_prompts,
       count(*) OVER (PARTITION BY i.source_layer, i.source_head) AS prompts
FROM prompt_inputs i
JOIN prompts p USING (run_id, layer, neuron, prompt)
LEFT JOIN active_heads(run := $run) a USING (run_id, layer, neuron, prompt, source_layer, source_head)
LEFT JOIN relevant_heads(run := $run) r USING (run_id, layer, neuron, source_layer, source_head)
WHERE i.run_id = $run AND i.layer = $layer::UTINYINT AND i.neuron = $neuron::UINTEGER
  AND i.component = 'head' AND i.reading = 'pre' AND p.duplicate_of IS NULL
ORDER BY r.active_fraction DESC NULLS LAST, active_prompts DESC, i.source_layer, i.source_head, i.prompt

-- name: prompt_inputs
SELECT i.reading::VARCHAR AS reading, i.component::VARCHAR AS component, i.source_layer, i.source_head, i.value,
       o.pre_linear, o.linear_closure
FROM prompt_inputs i JOIN base.neuron_occurrence o USING (run_id, layer, neuron, prompt)
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER AND prompt = $prompt
ORDER BY i.reading, abs(i.value) DESC, i.component, i.source_layer, i.source_head

-- name: head_prompts
SELECT h.prompt, p.text, h.is_active, h.is_held_out, h.activation, h.ablated_activation,
       h.activation - h.ablated_activation AS activation_fall, h.probability, h.ablated_probability,
       h.probability - h.ablated_probability AS probability_fall
FROM head_prompts h JOIN prompts p USING (run_id, layer, neuron, prompt)
WHERE h.run_id = $run AND h.layer = $layer::UTINYINT AND h.neuron = $neuron::UINTEGER
  AND h.source_layer = $source_layer::UTINYINT AND h.source_head = $source_head::UTINYINT
ORDER BY h.is_active DESC, h.prompt
