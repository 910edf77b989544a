-- What only the browser's pages ask, over the views of schema.sql; where no token's text is needed, over
-- base.position, which joins no vocabulary.

-- name: documents
-- Those that have a text in their file's name, metadata or beginning; first the one of which it is the number.
SELECT document_id, metadata, left(text, 80) AS beginning FROM documents
WHERE corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run)
  AND ($find = '' OR document_id::VARCHAR = $find
       OR contains(lower(concat_ws(' ', parse_filename(source), array_to_string(metadata ->> '$.*', ' '), left(text, 80))),
                   lower($find)))
ORDER BY document_id::VARCHAR <> $find, document_id LIMIT $limit

-- name: numbers_of_documents
SELECT min(document_id) AS first, max(document_id) AS last FROM documents
WHERE corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run)

-- name: document
SELECT d.document_id, d.metadata, left(d.text, 80) AS beginning,
       min(p.position_id) AS first, max(p.position_id) AS last, count(p.position_id) AS tokens
FROM documents d LEFT JOIN base.position p ON p.run_id = $run AND p.document_id = d.document_id
WHERE d.document_id = $document AND d.corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run)
GROUP BY ALL

-- name: tokens
SELECT p.position_id, p.position, p.window_id, p.document_id, p.token, p.next_token, p.top_token, p.char_start, p.char_end, {its_text},
       -p.next_logprob AS loss, p.next_rank AS rank, p.entropy, p.next_logprob, p.top_logprob
FROM positions p {passage} WHERE p.run_id = $run AND p.position_id BETWEEN $first AND $last ORDER BY p.position_id

-- name: its_text
base.excerpt(s.text, p.char_start, p.char_end - p.char_start) AS text

-- name: passage
LEFT JOIN base.passage s ON s.passage_id = base.passage_id(p.document_id, p.char_start)

-- name: neuron_values
SELECT b.position_id, n.activation AS value, b.activation_bound AS bound
FROM neuron_bounds b
LEFT JOIN neurons n ON n.run_id = b.run_id AND n.position_id = b.position_id AND n.layer = b.layer
                   AND n.neuron = $neuron AND n.run_id = $run AND n.layer = $layer
                   AND n.position_id BETWEEN $first AND $last
WHERE b.run_id = $run AND b.layer = $layer AND b.position_id BETWEEN $first AND $last
ORDER BY b.position_id

-- name: head_values
SELECT position_id, toward_next, toward_top FROM heads
WHERE run_id = $run AND layer = $layer AND head = $head AND position_id BETWEEN $first AND $last
ORDER BY position_id

-- name: layer_values
SELECT position_id, toward_next, toward_top FROM contributions
WHERE run_id = $run AND layer = $layer AND component = $component AND position_id BETWEEN $first AND $last
ORDER BY position_id

-- name: settled
-- The layer from which on the logit lens gives the model's own first choice, to the end.
SELECT p.position_id, coalesce(max(l.layer) FILTER (l.top_token_id <> p.top_token_id) + 1, 0)::INTEGER AS settled
FROM base.position p JOIN base.lens l USING (run_id, position_id)
WHERE p.run_id = $run AND p.position_id BETWEEN $first AND $last AND l.position_id BETWEEN $first AND $last
GROUP BY p.position_id ORDER BY p.position_id

-- name: neuron_hits
-- Places of its list, high or low, before and after a position.
SELECT max(position_id) FILTER (position_id < $position) AS before, min(position_id) FILTER (position_id > $position) AS after
FROM neuron_top WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $unit::UINTEGER

-- name: head_hits
SELECT max(position_id) FILTER (position_id < $position) AS before, min(position_id) FILTER (position_id > $position) AS after
FROM head_top WHERE run_id = $run AND layer = $layer::UTINYINT AND head = $unit::UTINYINT

-- name: loss_by_position
SELECT position, -avg(next_logprob) AS loss, count(*) AS positions FROM base.position
WHERE run_id = $run AND next_logprob IS NOT NULL GROUP BY position ORDER BY position

-- name: strongest_neurons
SELECT layer, neuron, mean_abs_effect, mean_effect, fraction_positive, max FROM neuron_stats
WHERE run_id = $run ORDER BY mean_abs_effect DESC, layer, neuron LIMIT $limit

-- name: strongest_heads
SELECT layer, head, mean_abs_effect, mean_effect, attention_previous, attention_first, attention_induction
FROM head_stats WHERE run_id = $run ORDER BY mean_abs_effect DESC, layer, head LIMIT $limit

-- name: lens
SELECT layer, top_token, top_logprob, next_logprob, next_rank FROM lens
WHERE run_id = $run AND position_id = $position ORDER BY layer

-- name: read
-- The tokens before a position, as far as it could read. In a strided run those of the window before
-- are among them, so the document is asked for, not the window.
SELECT p.position_id, p.position, p.token, p.next_token, p.char_start, p.char_end, {its_text}, -p.next_logprob AS loss
FROM positions p {passage}
WHERE p.run_id = $run AND p.document_id = $document AND p.position_id BETWEEN $first AND $position
ORDER BY p.position_id

-- name: same_place
SELECT b.position_id FROM base.position a JOIN base.position b USING (document_id, window_id, position)
WHERE a.position_id = $position AND b.run_id = $run AND a.token_id = b.token_id
  AND a.char_start IS NOT DISTINCT FROM b.char_start

-- name: neighbours
SELECT max(position_id) FILTER (position_id < $position) AS before,
       min(position_id) FILTER (position_id > $position) AS after
FROM base.position WHERE run_id = $run AND document_id = $document
  AND position_id BETWEEN $position - 1 AND $position + 1

-- name: spans
SELECT position_id, char_start, char_end FROM base.position
WHERE run_id = $run AND position_id IN (SELECT unnest($positions))

-- name: metadata_keys
-- The keys, and whether documents share values of one: an id tells each document apart.
-- A key that is empty or has a quote in it cannot be asked for by `position.metadata`.
SELECT field.key, count(DISTINCT field.value ->> '$') < 0.9 * count(*) AS shared
FROM documents d, json_each(d.metadata) field
WHERE d.corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run)
  AND field.key <> '' AND NOT contains(field.key, '"')
GROUP BY field.key ORDER BY field.key

-- name: facets
-- How often each document, metadata value, ten of places in the window and token is among some positions.
WITH hits AS MATERIALIZED (
    SELECT p.document_id, p.position, p.token
    FROM (SELECT unnest($positions) AS position_id) JOIN positions p USING (position_id) WHERE p.run_id = $run
),
fields AS (
    SELECT d.document_id, field.key, field.value ->> '$' AS value
    FROM documents d, json_each(d.metadata) field
    WHERE d.document_id IN (SELECT document_id FROM hits) AND field.type NOT IN ('OBJECT', 'ARRAY', 'NULL')
      AND field.key <> '' AND NOT contains(field.key, '"')
),
counted AS (
    SELECT 'metadata' AS facet, key, value, NULL AS beginning, count(*) AS found
    FROM hits JOIN fields USING (document_id) GROUP BY ALL
    UNION ALL
    SELECT 'document', NULL, document_id::VARCHAR, left(d.text, 60), count(*)
    FROM hits JOIN documents d USING (document_id) GROUP BY ALL
    UNION ALL
    SELECT 'position', NULL, (position // 10 * 10)::VARCHAR, NULL, count(*) FROM hits GROUP BY ALL
    UNION ALL
    SELECT 'token', NULL, token, NULL, count(*) FROM hits GROUP BY ALL
)
FROM counted ORDER BY facet, key, CASE facet WHEN 'position' THEN value::BIGINT ELSE -found END, value

-- name: columns
SELECT table_name AS view, column_name AS column, coalesce(comment, data_type) AS comment
FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
ORDER BY table_name, column_index

-- name: loss_of_both
-- Over the tokens that both predicted from the same place of their windows.
SELECT count(*) AS positions, -avg(a.next_logprob) AS loss_a, -avg(b.next_logprob) AS loss_b,
       avg(a.next_logprob - b.next_logprob) AS change,
       avg((b.next_logprob > a.next_logprob)::INTEGER) AS better,
       avg((a.next_rank = 1)::INTEGER) AS right_a, avg((b.next_rank = 1)::INTEGER) AS right_b
FROM base.position a
JOIN base.position b USING (document_id, window_id, position, token_id, next_token_id)
WHERE a.run_id = $run AND b.run_id = $other AND a.char_start IS NOT DISTINCT FROM b.char_start
  AND (SELECT count(DISTINCT corpus_id) = 1 FROM runs WHERE run_id IN ($run, $other))

-- name: components_of_both
SELECT coalesce(a.component, b.component)::VARCHAR AS component, coalesce(a.layer, b.layer) AS layer,
       a.toward_next AS next_a, b.toward_next AS next_b, b.toward_next - a.toward_next AS next_change,
       a.toward_top AS top_a, b.toward_top AS top_b, b.toward_top - a.toward_top AS top_change
FROM (FROM contributions WHERE position_id = $position_a) a
FULL JOIN (FROM contributions WHERE position_id = $position_b) b
  ON a.component = b.component AND a.layer IS NOT DISTINCT FROM b.layer
ORDER BY a.component = 'final_bias', layer NULLS FIRST, component

-- name: next_token_neurons
-- The neurons that were looked up, the clearest next-tokens first.
SELECT l.*, count(DISTINCT (r.source_layer, r.source_head)) FILTER (r.source_head IS NOT NULL) AS relevant_heads
FROM next_token_neurons l
LEFT JOIN relevant_heads(run := $run) r USING (run_id, layer, neuron)
WHERE l.run_id = $run
GROUP BY ALL ORDER BY l.congruence DESC, l.layer, l.neuron

-- name: is_looked_up
SELECT count(*) > 0 AS is_looked_up FROM base.next_token_neuron WHERE run_id = $run AND layer = $layer AND neuron = $neuron

-- name: scores
-- How well explanations foretell: this run's by what made them, and the published ones.
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
-- A neuron's different prompts, and how many of its windows each came from.
SELECT *, count(*) OVER (PARTITION BY coalesce(duplicate_of, prompt)) AS windows FROM prompts
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER
QUALIFY duplicate_of IS NULL ORDER BY prompt

-- name: prompt_tokens
-- Their tokens, and the neuron's activation there in the corpus, which has more before them: at the last
-- one it is stored (neuron_windows), at the others where it was kept.
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
WHERE p.char_start IS NOT NULL  -- a later window's BOS
ORDER BY a.prompt, a.position_id

-- name: head_shares
-- What each earlier head feeds a neuron on its prompts: the relevant heads first, then those active most.
SELECT i.prompt, i.source_layer AS layer, i.source_head AS head, i.value,
       a.prompt IS NOT NULL AS is_active, r.active_fraction,
       count(a.prompt) OVER (PARTITION BY i.source_layer, i.source_head) AS active_prompts,
       count(*) OVER (PARTITION BY i.source_layer, i.source_head) AS prompts
FROM prompt_inputs i
JOIN prompts p USING (run_id, layer, neuron, prompt)
LEFT JOIN active_heads(run := $run) a USING (run_id, layer, neuron, prompt, source_layer, source_head)
LEFT JOIN relevant_heads(run := $run) r USING (run_id, layer, neuron, source_layer, source_head)
WHERE i.run_id = $run AND i.layer = $layer::UTINYINT AND i.neuron = $neuron::UINTEGER
  AND i.component = 'head' AND p.duplicate_of IS NULL
ORDER BY r.active_fraction DESC NULLS LAST, active_prompts DESC, i.source_layer, i.source_head, i.prompt

-- name: prompt_inputs
SELECT component::VARCHAR AS component, source_layer, source_head, value FROM prompt_inputs
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER AND prompt = $prompt
ORDER BY abs(value) DESC, prompt_inputs.component, source_layer, source_head

-- name: head_prompts
SELECT h.prompt, p.text, h.is_active, h.is_held_out, h.activation, h.ablated_activation,
       h.activation - h.ablated_activation AS activation_fall, h.probability, h.ablated_probability,
       h.probability - h.ablated_probability AS probability_fall
FROM head_prompts h JOIN prompts p USING (run_id, layer, neuron, prompt)
WHERE h.run_id = $run AND h.layer = $layer::UTINYINT AND h.neuron = $neuron::UINTEGER
  AND h.source_layer = $source_layer::UTINYINT AND h.source_head = $source_head::UTINYINT
ORDER BY h.is_active DESC, h.prompt

-- name: fed_neurons
-- Of which neurons it is stored what feeds them at a position.
SELECT layer, neuron, pre_activation, activation, closure FROM base.neuron_occurrence
WHERE run_id = $run AND position_id = $position AND prompt IS NULL ORDER BY layer, neuron

-- name: fed_positions
-- Where it is stored what feeds a neuron, and what feeds it most there.
SELECT position_id, any_value(token) AS token, any_value(i.activation) AS activation,
       arg_max(struct_pack(component := component::VARCHAR, source_layer, source_head), abs(value)) AS strongest,
       arg_max(value, abs(value)) AS value
FROM neuron_inputs i JOIN positions p USING (run_id, position_id)
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER
GROUP BY position_id ORDER BY activation DESC, position_id
