-- The statements that write a store, and the queries that a writer needs. `rows` is an Arrow table with the rows that
-- an INSERT stores. The INSERT sorts these rows, except the rows of a shard (ingest/run/rows.py) and of top-k lists,
-- which arrive sorted.

-- Provenance and text -----------------------------------------------------------------------------

-- name: models
-- The stored model with the weights, the configuration, the tokenizer and the revision of a given model. A model that
-- was read from a folder has no revision; a missing revision matches any revision. If several stored models match, a
-- given model with a revision prefers one with a revision, and a given model without a revision prefers one without.
SELECT model_id, revision FROM base.model m
WHERE weights_sha256 = $weights_sha256 AND coalesce(config = $config, true) AND tokenizer_id = $tokenizer_id AND {same_revision}
ORDER BY (m.revision IS NULL) <> ($revision::VARCHAR IS NULL), model_id LIMIT 1

-- name: name_model
UPDATE base.model SET model = $model, revision = $revision, step = $step WHERE model_id = $model_id

-- name: same_revision
-- The condition that the stored model `m` has the given revision. If the training steps of both are known, the steps
-- are compared, because one step may have two revision names, such as `main` and `step143000`. A missing revision
-- matches any revision.
(m.revision IS NULL OR $revision::VARCHAR IS NULL
 OR coalesce(m.step::VARCHAR, m.revision) = coalesce($step::INTEGER::VARCHAR, $revision::VARCHAR))

-- name: equal_weights
SELECT m.model, m.revision, coalesce('run ' || min(r.run_id), 'its weights alone') AS first_of
FROM base.model m LEFT JOIN base.run r USING (model_id)
WHERE m.weights_sha256 = $weights_sha256 AND (m.model <> $model OR m.revision IS DISTINCT FROM $revision::VARCHAR)
GROUP BY m.model, m.revision ORDER BY min(r.run_id), min(m.model_id)

-- name: tokenizers
SELECT tokenizer_id FROM base.tokenizer WHERE sha256 = $sha256

-- name: corpora
SELECT corpus_id FROM base.corpus WHERE sha256 = $sha256

-- name: equal_run
SELECT r.run_id, r.model_id, r.corpus_id, r.status::VARCHAR AS status, m.revision
FROM base.run r JOIN base.model m USING (model_id) WHERE r.identity = $identity AND ($any_revision OR {same_revision})
ORDER BY NOT {same_revision}, (m.revision IS NULL) <> ($revision::VARCHAR IS NULL), r.run_id DESC LIMIT 1

-- name: unfinished_runs
SELECT r.run_id, r.settings::VARCHAR AS settings, r.libraries::VARCHAR AS libraries, m.model,
       m.revision, m.weights_sha256, c.sha256 AS corpus_sha256
FROM base.run r JOIN base.model m USING (model_id) JOIN base.corpus c USING (corpus_id)
WHERE r.status = 'running' ORDER BY r.run_id

-- name: next_id
SELECT (SELECT coalesce(max(run_id), 0) + 1 FROM base.run) AS run,
       (SELECT coalesce(max(corpus_id), 0) + 1 FROM base.corpus) AS corpus,
       (SELECT coalesce(max(model_id), 0) + 1 FROM base.model) AS model,
       (SELECT coalesce(max(tokenizer_id), 0) + 1 FROM base.tokenizer) AS tokenizer

-- name: state
-- A summary of what the store contains. A command compares it with the summary that it read at its start. If the two
-- differ, another program has written into the file, and the ids that the command chose for new rows may no longer be
-- free.
SELECT 'run' AS what, run_id AS number, concat(identity, ' ', status) AS content FROM base.run
UNION ALL SELECT 'corpus', corpus_id, sha256 FROM base.corpus
UNION ALL SELECT 'model', model_id, weights_sha256 FROM base.model
UNION ALL SELECT 'tokenizer', tokenizer_id, sha256 FROM base.tokenizer
UNION ALL SELECT 'weights of model', model_id, made::VARCHAR FROM base.weights
UNION ALL SELECT 'shards of run', run_id, concat(count(*), ' ', max(committed)) FROM base.shard GROUP BY run_id
UNION ALL SELECT 'bigrams of run', run_id, count(*)::VARCHAR FROM base.bigram_agreement GROUP BY run_id
UNION ALL SELECT 'inputs of run', run_id, count(*)::VARCHAR FROM base.neuron_occurrence GROUP BY run_id
UNION ALL SELECT 'next-token neurons of run', run_id, count(*)::VARCHAR FROM base.next_token_neuron GROUP BY run_id
UNION ALL SELECT 'ablations of run', run_id, count(*)::VARCHAR FROM base.head_prompt GROUP BY run_id
UNION ALL SELECT 'p-values of run', run_id, count(*)::VARCHAR FROM base.ablation GROUP BY run_id
UNION ALL SELECT 'explanations of run', run_id, concat(count(*), ' ', max(explanation_id)) FROM base.explanation GROUP BY run_id
UNION ALL SELECT 'answers to explanation', explanation_id, count(*)::VARCHAR FROM base.explanation_answer GROUP BY explanation_id
ORDER BY ALL

-- name: insert_document
INSERT INTO base.document BY NAME
SELECT * FROM rows ANTI JOIN base.document USING (document_id) ORDER BY document_id

-- name: insert_passage
INSERT INTO base.passage BY NAME
SELECT * FROM rows ANTI JOIN base.passage USING (passage_id) ORDER BY passage_id

-- Terms of a prediction ---------------------------------------------------------------------------

-- name: taken
-- The ids that were chosen for new rows, but that rows of the store already use. Each of the parameters `run`,
-- `corpus`, `model` and `tokenizer` is the chosen id of such an object; NULL if no id was chosen for this kind of
-- object.
SELECT 'run' AS what, $run AS number WHERE EXISTS (FROM base.run WHERE run_id = $run) OR EXISTS (FROM base.shard WHERE run_id = $run)
UNION ALL SELECT 'positions of run', $run
WHERE EXISTS (FROM base.position WHERE run_id = $run OR position_id BETWEEN ($run - 1) * $positions AND $run * $positions - 1)
UNION ALL SELECT 'corpus', $corpus WHERE EXISTS (FROM base.corpus WHERE corpus_id = $corpus)
UNION ALL SELECT 'documents of corpus', $corpus
WHERE EXISTS (FROM base.document WHERE corpus_id = $corpus OR document_id BETWEEN ($corpus - 1) * $documents AND $corpus * $documents - 1)
UNION ALL SELECT 'model', $model WHERE EXISTS (FROM base.model WHERE model_id = $model) OR EXISTS (FROM base.weights WHERE model_id = $model)
UNION ALL SELECT 'tokenizer', $tokenizer
WHERE EXISTS (FROM base.tokenizer WHERE tokenizer_id = $tokenizer) OR EXISTS (FROM base.token WHERE tokenizer_id = $tokenizer)

-- name: last_shard
SELECT shard, last_position_id, next_document, document_position, document_window, next_window,
       (SELECT sum(positions) FROM base.shard WHERE run_id = $run_id)::BIGINT AS positions
FROM base.shard WHERE run_id = $run_id ORDER BY shard DESC LIMIT 1

-- name: part_of_run
FROM base.part WHERE run_id = $run_id

-- name: stored_parts
SELECT p.*, r.identity, r.model_id, r.corpus_id, m.tokenizer_id
FROM base.part p JOIN base.run r USING (run_id) JOIN base.model m USING (model_id) ORDER BY p.run_id

-- name: shards_of_run
SELECT shard, first_position_id, last_position_id FROM base.shard WHERE run_id = $run_id ORDER BY shard

-- name: texts_of_corpus
-- The smallest and largest ids of a corpus's documents, and of the passages in which their texts are stored.
SELECT min(d.document_id), max(d.document_id),
       (SELECT min(passage_id) FROM base.passage WHERE base.document_of_passage(passage_id) BETWEEN min(d.document_id) AND max(d.document_id)),
       (SELECT max(passage_id) FROM base.passage WHERE base.document_of_passage(passage_id) BETWEEN min(d.document_id) AND max(d.document_id))
FROM base.document d WHERE d.corpus_id = $corpus_id

-- name: spells_of_tokenizer
SELECT spells FROM base.tokenizer WHERE tokenizer_id = $tokenizer_id

-- name: tokens_of_tokenizer
SELECT token_id, token, bytes, is_special FROM base.token WHERE tokenizer_id = $tokenizer_id ORDER BY token_id

-- name: tokens_with_direction
SELECT token_id FROM base.token_direction WHERE model_id = $model_id ORDER BY token_id

-- name: insert_layer_bias
INSERT INTO base.layer_bias BY NAME
SELECT * FROM rows ANTI JOIN base.layer_bias USING (model_id) ORDER BY token_id, layer

-- name: insert_position
INSERT INTO base.position BY NAME SELECT * REPLACE (
    base.units(embed_next) AS embed_next, base.units(embed_top) AS embed_top,
    base.units(pos_embed_next) AS pos_embed_next, base.units(pos_embed_top) AS pos_embed_top,
    base.units(bias_next) AS bias_next, base.units(bias_top) AS bias_top
) FROM rows

-- name: insert_contribution
-- The effects in `rows` are in logits. base.units converts them to integer numbers of small steps, which are stored.
INSERT INTO base.contribution BY NAME SELECT * REPLACE (
    base.units(attn_next) AS attn_next, base.units(attn_top) AS attn_top,
    base.units(mlp_next) AS mlp_next, base.units(mlp_top) AS mlp_top,
    base.units(mlp_remainder_next) AS mlp_remainder_next, base.units(mlp_remainder_top) AS mlp_remainder_top
) FROM rows

-- name: insert_head
INSERT INTO base.head BY NAME SELECT * REPLACE (
    base.units(toward_next) AS toward_next, base.units(toward_top) AS toward_top
) FROM rows

-- name: insert_neuron_direction
-- Insert the rows of the layers that are not yet stored for the model. An earlier run of the model may have stored a
-- layer.
INSERT INTO base.neuron_direction BY NAME SELECT * FROM rows ANTI JOIN base.neuron_direction USING (model_id, layer) ORDER BY neuron

-- name: insert_token_direction
-- Insert the rows of the tokens that are not yet stored for the model. An earlier shard or an earlier run of the model
-- may have stored a token.
INSERT INTO base.token_direction BY NAME SELECT * FROM rows ANTI JOIN base.token_direction USING (model_id, token_id) ORDER BY token_id

-- name: insert_shard
INSERT INTO base.shard BY NAME SELECT *, now() AS committed FROM rows

-- Neurons and heads over a run --------------------------------------------------------------------

-- name: candidates
SELECT layer, unit, position_id, value FROM base.ranked
WHERE run_id = $run_id AND kind = $kind::unit_kind AND list = $list::unit_list

-- name: candidates_of_part
-- As `candidates`, for a run that is not finished, and without leaving out those that have dropped out of the lists: to
-- rank them takes longer than to read them.
SELECT layer, unit, position_id, value FROM base.top_candidate
WHERE run_id = $run_id AND kind = $kind::unit_kind AND list = $list::unit_list

-- name: unit_stats
SELECT * REPLACE (kind::VARCHAR AS kind) FROM base.unit_stat WHERE run_id = $run_id ORDER BY unit_stat.kind, layer, unit

-- name: attention_stats
SELECT * REPLACE (behaviour::VARCHAR AS behaviour) FROM base.attention_stat WHERE run_id = $run_id ORDER BY layer, head

-- name: insert_top_candidate
-- Insert candidates for top-k lists, without the column `rank`: the ranks of a list are known only when the run is
-- finished.
INSERT INTO base.top_candidate BY NAME SELECT * EXCLUDE (rank) FROM rows

-- name: delete_top_entry
-- Delete the entries and the candidates of some top-k lists of a run. The parameters `kinds`, `lists` and `layers` are
-- arrays of the same length. Their i-th elements name a kind of unit (such as neuron), a list (such as high) and a
-- layer. For each i, this list is deleted for every unit of this kind in this layer.
DELETE FROM base.top_candidate
WHERE run_id = $run_id AND (kind, list, layer) IN (SELECT unnest($kinds::unit_kind[]), unnest($lists::unit_list[]), unnest($layers::UTINYINT[]));
DELETE FROM base.top_entry
WHERE run_id = $run_id AND (kind, list, layer) IN (SELECT unnest($kinds::unit_kind[]), unnest($lists::unit_list[]), unnest($layers::UTINYINT[]))

-- name: finish_top_sources
INSERT INTO base.top_source BY NAME
SELECT h.run_id, h.layer, h.head, h.position_id, h.source_offset, h.attention
FROM base.head h
SEMI JOIN (SELECT layer, unit AS head, position_id FROM base.top_entry
           WHERE run_id = $run_id AND kind = 'head') USING (layer, head, position_id)
WHERE h.run_id = $run_id ORDER BY h.layer, h.head, h.position_id

-- name: finish_head_offsets
-- When a run is finished, store sums of attention and of direct effects for each head and distance. The distance is the
-- number of positions from the position back to the source to which the head attends most.
INSERT INTO base.head_offset BY NAME
SELECT run_id, layer, head, source_offset, count(*) AS positions, sum(attention) AS attention,
       count(toward_next) AS effects, sum(toward_next) AS effect
FROM base.head ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id)
WHERE run_id = $run_id
GROUP BY run_id, layer, head, source_offset ORDER BY layer, head, source_offset

-- name: sampled_layers
-- The layers of a run in groups, one group (a list of layers) per row. The sampled values of the layers are converted
-- one group at a time. To limit the memory, a group has about as many values as the parameter `values` says.
SELECT list(layer ORDER BY layer) AS layers
FROM (SELECT layer, sum(sum(len(values))) OVER (ORDER BY layer) // $values AS portion
      FROM base.sample_row WHERE run_id = $run_id GROUP BY layer)
GROUP BY portion ORDER BY portion

-- name: sample_rows
SELECT kind::VARCHAR AS kind, layer, values::FLOAT[] AS values FROM base.sample_row
WHERE run_id = $run_id AND list_contains($layers, layer) ORDER BY sample_row.kind, layer, position_id

-- name: delete_sample_unit
-- Delete the rows of base.sample_row that are replaced by new rows of base.sample_unit. The name is not
-- delete_sample_row, because the writer runs a statement delete_TABLE when it is about to insert rows into TABLE.
DELETE FROM base.sample_row WHERE run_id = $run_id AND list_contains($layers, layer)

-- name: finish_run
UPDATE base.run SET status = 'finished', finished = now() WHERE run_id = $run_id

-- Weights -----------------------------------------------------------------------------------------

-- name: weights
SELECT top FROM base.weights WHERE model_id = $model_id

-- name: insert_weights
INSERT INTO base.weights BY NAME SELECT *, now() AS made FROM rows

-- name: runs_of_model
SELECT r.run_id, r.run_id IN (SELECT run_id FROM base.bigram_distance) AS compared
FROM base.run r WHERE r.model_id = $model_id AND r.status = 'finished' ORDER BY r.run_id

-- name: bigram_counts
SELECT token_id, next_token_id, count(*) AS count FROM base.position ANTI JOIN base.left_out USING (run_id, position_id)
WHERE run_id = $run_id AND next_token_id IS NOT NULL GROUP BY ALL ORDER BY token_id, next_token_id

-- name: frequent_tokens
SELECT p.token_id FROM base.position p
JOIN base.run USING (run_id) JOIN base.model USING (model_id) JOIN base.tokenizer t USING (tokenizer_id)
WHERE t.sha256 = $sha256
GROUP BY p.token_id ORDER BY count(*) DESC, p.token_id LIMIT $k

-- name: tokens_of_circuits
SELECT DISTINCT source FROM base.head_vocabulary WHERE model_id = $model_id

-- Next-token neurons ------------------------------------------------------------------------------

-- name: run_to_read
SELECT r.status::VARCHAR AS status, m.weights_sha256, m.config FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run_id

-- name: contexts
-- For each given position: the tokens of its window up to and including the position, without the BOS, and the
-- position_id of each token. A token that the window shares with the previous window is stored only with the previous
-- window, so it has the position_id from there. `bos` is a list with the token id of the BOS at the start of the
-- window, empty if the run has no BOS, and `bos_position_ids` is a list with the position_id of this BOS. `missing` is the
-- number of tokens that only another part of the run has (base.part).
WITH wanted AS (
    SELECT p.*, r.settings, p.position + 1 - (r.settings->>'bos')::BOOLEAN::INTEGER AS tokens
    FROM base.position p JOIN base.run r USING (run_id) WHERE p.position_id IN (SELECT unnest($position_ids))
), read AS (
    SELECT w.position_id, c.position_id AS source_position_id, c.token_id
    FROM wanted w
    JOIN base.position c ON c.run_id = w.run_id AND c.document_id = w.document_id
     AND c.position_id BETWEEN w.position_id - 2 * w.position AND w.position_id -- 2 * position, because with a stride of 1 a BOS is stored between any two tokens
    WHERE c.position > 0 OR NOT (w.settings->>'bos')::BOOLEAN
    QUALIFY row_number() OVER (PARTITION BY w.position_id ORDER BY c.position_id DESC) <= w.tokens
)
SELECT w.position_id,
       coalesce((SELECT list(DISTINCT token_id) FROM base.position
                 WHERE run_id = w.run_id AND position = 0 AND (w.settings->>'bos')::BOOLEAN), []) AS bos,
       coalesce(list(read.token_id ORDER BY source_position_id) FILTER (read.token_id IS NOT NULL), []) AS token_ids,
       coalesce(list(source_position_id ORDER BY source_position_id) FILTER (read.token_id IS NOT NULL), []) AS position_ids,
       coalesce((SELECT list(position_id) FROM base.position
                 WHERE run_id = w.run_id AND window_id = w.window_id AND position = 0 AND (w.settings->>'bos')::BOOLEAN), [])
           AS bos_position_ids,
       any_value(w.tokens) - count(read.token_id) AS missing
FROM wanted w LEFT JOIN read USING (position_id)
GROUP BY w.run_id, w.position_id, w.window_id, w.settings

-- name: positions_with_next
-- The positions of a run that have a next token, each with its document_id and the id of the next token.
SELECT position_id, document_id, next_token_id FROM positions WHERE run_id = $run_id AND next_token_id IS NOT NULL ORDER BY position_id

-- name: unit_effects
SELECT kind, layer, unit, effect_method, is_random, mean_abs_total, p FROM base.unit_effect
WHERE run_id = $run_id AND replaced_by = $replaced_by AND sample = $sample AND seed = $seed

-- name: contrast_documents
-- The documents of a run in order, each with its answer, its distractor and the position after which the model predicts
-- one of these two. This position is the last one of the document. If a metadata column (--answer-position) gives a
-- number of characters, it is the last position whose token ends within that number of characters.
WITH place AS (
    SELECT d.document_id, d.metadata, TRY_CAST(d.metadata->>$position AS BIGINT) AS characters
    FROM base.document d JOIN base.run r USING (corpus_id) WHERE r.run_id = $run_id
), predicting AS (
    SELECT d.document_id, max(p.position_id) AS position_id
    FROM place d JOIN base.position p USING (document_id)
    WHERE p.run_id = $run_id AND ($position IS NULL OR p.char_end <= d.characters)
    GROUP BY d.document_id
)
SELECT d.document_id, d.metadata->>$answer AS answer, d.metadata->>$distractor AS distractor, json_keys(d.metadata) AS columns,
       e.position_id,
       EXISTS (FROM base.contrast c WHERE c.run_id = $run_id AND c.document_id = d.document_id) AS is_there
FROM place d LEFT JOIN predicting e USING (document_id)
WHERE EXISTS (FROM base.position p WHERE p.run_id = $run_id AND p.document_id = d.document_id)
ORDER BY d.document_id

-- name: windows_of_positions
-- The windows that contain the given positions, one row per window. first_position_id, first_window_id: the first
-- position and the first window of the window's document in the run. stored: the number of positions that are stored
-- with the window.
WITH chosen AS (
    SELECT DISTINCT document_id, window_id FROM base.position WHERE position_id IN (SELECT unnest($position_ids))
)
SELECT p.document_id, c.window_id, min(p.position_id) AS first_position_id, min(p.window_id) AS first_window_id,
       count(*) FILTER (p.window_id = c.window_id) AS stored
FROM chosen c JOIN base.position p USING (document_id) WHERE p.run_id = $run_id
GROUP BY p.document_id, c.window_id ORDER BY p.document_id, c.window_id

-- name: inputs_there
SELECT count(*) AS n FROM base.neuron_occurrence
WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron AND position_id = $position_id AND prompt IS NULL

-- name: next_token_neurons
SELECT * FROM base.next_token_neuron WHERE run_id = $run_id

-- name: neurons_to_draw
-- The neurons of the given layers, each with its mean activation; baseline neurons are drawn from them. is_eligible:
-- whether the token that the neuron promotes most could be the next-token of a next-token neuron. Neurons with
-- is_eligible = true are not drawn. If the model's weights were not read, this token is unknown, and is_eligible is
-- false.
SELECT s.layer, s.unit AS neuron, coalesce(s.mean, 0) AS mean, coalesce(base.is_next_token(v.token), false) AS is_eligible
FROM base.unit_summary s JOIN base.run r USING (run_id)
LEFT JOIN neuron_vocabulary v
  ON v.model_id = r.model_id AND v.layer = s.layer AND v.neuron = s.unit AND v.direction = 'promotes' AND v.rank = 1
WHERE s.run_id = $run_id AND s.kind = 'neuron' AND s.layer IN (SELECT unnest($layers)) ORDER BY s.layer, s.unit

-- name: highest_windows
-- A neuron's top windows, from which its prompts are made. A window whose maximum activation is at the BOS is left out,
-- because a BOS alone is not a prompt.
SELECT e.rank, e.position_id, e.value FROM base.top_entry e JOIN base.position p USING (run_id, position_id)
WHERE e.run_id = $run_id AND e.kind = 'neuron' AND e.list = 'window' AND e.layer = $layer AND e.unit = $neuron AND e.rank <= $windows
  AND e.value > 0 AND p.char_start IS NOT NULL
ORDER BY e.rank

-- name: explanations_of_neuron
-- A subquery: the ids of all explanations of one neuron's relevant heads (see relevant_heads).
(SELECT explanation_id FROM base.explanation WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron)

-- name: delete_next_token_neuron
-- Delete all that is stored about the prompts of one neuron: its row in base.next_token_neuron, the prompts with their
-- inputs, and the ablations and explanations that were made with the prompts.
DELETE FROM base.explanation_answer WHERE explanation_id IN {explanations_of_neuron};
DELETE FROM base.explanation WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron;
DELETE FROM base.head_prompt WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron;
DELETE FROM base.ablation WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron;
DELETE FROM base.next_token_neuron WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron;
DELETE FROM base.neuron_occurrence WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron AND prompt IS NOT NULL;
DELETE FROM base.neuron_input WHERE run_id = $run_id AND layer = $layer AND neuron = $neuron AND prompt IS NOT NULL

-- name: prompts_of_heads
-- The pairs of a head and a prompt for which an ablation is still missing. One row per relevant head (see
-- relevant_heads) and distinct prompt, only for neurons that have prompts but no ablations.
SELECT r.layer, r.neuron, r.source_layer, r.source_head, o.prompt, o.position_id, o.tokens, o.activation, a.prompt IS NOT NULL AS is_active
FROM relevant_heads(run := $run_id) r
JOIN base.neuron_occurrence o USING (run_id, layer, neuron)
LEFT JOIN active_heads(run := $run_id) a USING (run_id, layer, neuron, prompt, source_layer, source_head)
ANTI JOIN base.head_prompt h ON h.run_id = r.run_id AND h.layer = r.layer AND h.neuron = r.neuron
WHERE o.prompt IS NOT NULL AND o.duplicate_of IS NULL
ORDER BY ALL

-- name: falls_of_heads
SELECT run_id, layer, neuron, source_layer, source_head, list(activation - ablated_activation ORDER BY prompt) AS activation,
       list(probability - ablated_probability ORDER BY prompt) AS probability, list(is_active ORDER BY prompt) AS is_active
FROM head_prompts GROUP BY ALL ORDER BY ALL

-- name: heads_to_explain
-- The pairs of a relevant head (see relevant_heads) and a prompt that an explanation method still needs. If the head
-- has no explanation by the method yet, all its prompts are returned; otherwise, only its held-out prompts that have no
-- answer.
WITH prompt AS (
    SELECT p.*, p.first_position_id + unnest(range(p.position_id - p.first_position_id + 1)) AS place
    FROM prompts p WHERE p.run_id = $run_id AND p.duplicate_of IS NULL
), read AS (
    SELECT p.layer, p.neuron, p.prompt, p.text, list(t.token ORDER BY p.place) AS tokens
    FROM prompt p
    JOIN base.position q ON q.run_id = p.run_id AND q.position_id = p.place
    JOIN base.run r ON r.run_id = q.run_id JOIN base.model m USING (model_id)
    JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = q.token_id
    WHERE q.char_start IS NOT NULL -- excludes the BOS between two windows
    GROUP BY p.layer, p.neuron, p.prompt, p.text
)
SELECT h.run_id, h.layer, h.neuron, h.source_layer, h.source_head, e.explanation_id, e.text AS explanation,
       h.prompt, h.is_active, h.is_held_out, read.text, read.tokens
FROM base.head_prompt h JOIN read USING (layer, neuron, prompt)
LEFT JOIN base.explanation e
  ON e.run_id = h.run_id AND e.layer = h.layer AND e.neuron = h.neuron AND e.source_layer = h.source_layer AND e.source_head = h.source_head
 AND e.method = $method AND e.language_model IS NOT DISTINCT FROM $language_model AND e.prompt_version IS NOT DISTINCT FROM $prompt_version
LEFT JOIN base.explanation_answer a ON a.explanation_id = e.explanation_id AND a.prompt = h.prompt
WHERE h.run_id = $run_id
  AND (e.explanation_id IS NULL OR e.text IS NOT NULL AND h.is_held_out AND a.explanation_id IS NULL)
ORDER BY h.layer, h.neuron, h.source_layer, h.source_head, h.prompt

-- name: next_explanation
SELECT coalesce(max(explanation_id), 0) + 1 AS id FROM base.explanation

-- name: insert_explanation
INSERT INTO base.explanation BY NAME SELECT *, now() AS made FROM rows
