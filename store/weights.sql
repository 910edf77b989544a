-- The queries of the class store.Weights. They read the results that the command `annotate weights` computed from a
-- model's weights.

-- name: model
-- Find the model to ask about. If a model is given, return all models that have this id or name. Otherwise, if a run is
-- given, return the model of the run. If neither is given, return the model of the latest finished run or, if no run is
-- finished, the model whose weights were read last.
SELECT m.*, concat_ws(' ', m.model, m.revision) AS name, w.top,
       coalesce($run::INTEGER, (SELECT arg_max(r.run_id, r.finished) FROM base.run r
                                WHERE r.model_id = m.model_id AND r.status = 'finished')) AS run_id
FROM base.model m LEFT JOIN base.weights w USING (model_id)
WHERE CASE WHEN $model IS NOT NULL THEN $model IN (m.model_id::VARCHAR, m.model, name)
           ELSE m.model_id = coalesce((SELECT model_id FROM base.run WHERE run_id = base.chosen_run($run::INTEGER)),
                                      (SELECT arg_max(model_id, made) FROM base.weights)) END
ORDER BY model_id

-- name: models
SELECT model_id, concat_ws(' ', model, revision) AS name, model_id IN (SELECT model_id FROM base.weights) AS is_read
FROM base.model ORDER BY model_id

-- name: token_id
SELECT token_id FROM vocabulary WHERE model_id = $model_id AND token = $text

-- name: tokens_like
SELECT token FROM vocabulary WHERE model_id = $model_id AND lower(trim(token)) = lower(trim($text)) ORDER BY token_id LIMIT 8

-- name: neuron_vocabulary
SELECT direction::VARCHAR AS direction, rank, token_id, token, congruence FROM neuron_vocabulary
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER ORDER BY neuron_vocabulary.direction, rank

-- name: neuron_reads
SELECT component, rank, source_layer, source_head, source_neuron, weight, z, reading::VARCHAR AS reading FROM neuron_reads
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER ORDER BY neuron_reads.reading, component, rank

-- name: neuron_stats
SELECT cosine, cosine_z, in_norm, out_norm, bias, gate_norm, gate_cosine, gate_bias, next_token_id, next_token, congruence, congruence_z, draws FROM weight_stats
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER

-- name: next_token_neurons
SELECT layer, neuron, next_token AS token, congruence, congruence_z, draws FROM weight_stats
WHERE model_id = $model_id AND neuron IS NOT NULL AND base.is_next_token(next_token)
QUALIFY row_number() OVER (PARTITION BY layer ORDER BY congruence DESC, neuron) <= $k
ORDER BY layer, congruence DESC, neuron

-- name: neurons_of_token
SELECT layer, neuron, next_token AS token, congruence, congruence_z, draws FROM weight_stats
WHERE model_id = $model_id AND neuron IS NOT NULL AND next_token_id = $token_id
ORDER BY congruence DESC, layer, neuron LIMIT $k

-- name: erasing_neurons
SELECT layer, neuron, cosine, cosine_z, in_norm, out_norm, bias FROM weight_stats
WHERE model_id = $model_id AND neuron IS NOT NULL ORDER BY cosine, layer, neuron LIMIT $k

-- name: direct_path
WITH corpus AS (
    SELECT next_token_id, count, share, row_number() OVER (ORDER BY count DESC, next_token_id) AS corpus_rank
    FROM bigrams WHERE run_id = $run AND token_id = $token_id
),
path AS (
    SELECT next_token_id, rank, logprob FROM base.direct_path
    WHERE model_id = $model_id AND token_id = $token_id
)
SELECT next_token_id, v.token AS next_token, rank, logprob, corpus_rank, count, share
FROM path FULL JOIN corpus USING (next_token_id)
JOIN vocabulary v ON v.model_id = $model_id AND v.token_id = next_token_id
WHERE rank <= $k OR corpus_rank <= $k
ORDER BY rank, corpus_rank

-- name: bigram_agreement
SELECT * EXCLUDE (run_id) FROM bigram_agreement WHERE run_id = $run AND coalesce(token_id = $token_id, true)
ORDER BY count DESC, token_id LIMIT $k

-- name: bigram_summary
SELECT * EXCLUDE (run_id) FROM bigram_summary WHERE run_id = $run

-- name: bigram_distances
SELECT * EXCLUDE (run_id) FROM bigram_distances WHERE run_id = $run ORDER BY min_count

-- name: behaviour
SELECT * EXCLUDE (model_id, run_id) FROM head_behaviour WHERE model_id = $model_id AND ($run IS NULL OR run_id = $run)
QUALIFY row_number() OVER (PARTITION BY layer, head ORDER BY run_id) = 1
ORDER BY layer, head

-- name: head_behaviour
WITH behaviour AS (
    FROM head_behaviour
    WHERE model_id = $model_id AND ($run IS NULL OR run_id = $run) AND layer = $layer::UTINYINT AND head = $head::UTINYINT
    ORDER BY run_id LIMIT 1
)
SELECT 'corpus' AS seen_in, corpus_previous AS previous, corpus_duplicate AS duplicate, corpus_induction AS induction,
       corpus_first AS first, corpus_self AS self, corpus_entropy AS entropy FROM behaviour
UNION ALL
SELECT 'random', random_previous, random_duplicate, random_induction, random_first, random_self, random_entropy FROM behaviour
UNION ALL
SELECT 'weights', weights_previous, weights_duplicate, weights_induction, NULL, NULL, NULL FROM behaviour

-- name: head_distances
SELECT distance, score, attention FROM head_distances
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT
ORDER BY attention DESC, distance LIMIT $k

-- name: head_stats
SELECT copying, copying_z, copying_rank, matching, matching_z, draws, ov_norm, qk_norm FROM weight_stats
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT

-- name: head_vocabulary
SELECT source_token_id, source_token, list(token ORDER BY rank) FILTER (rank <= 5) AS tokens, max(effect) AS effect
FROM head_vocabulary WHERE model_id = $model_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT
GROUP BY source_token_id, source_token ORDER BY effect DESC, source_token_id LIMIT $k

-- name: head_pairs
SELECT * EXCLUDE (model_id, layer, head) FROM head_pairs
WHERE model_id = $model_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT AND rank <= $k ORDER BY rank

-- name: skip_trigrams
-- A head's skip-trigrams, each of a source, a destination and an output token. places: the number of occurrences in the
-- run. In an occurrence, the output token is the next token after the destination, and the source is 2 to 16 tokens
-- before the destination in the same window. mean_toward_next: the head's mean direct effect on the output token at the
-- occurrences.
WITH known AS (
    SELECT * EXCLUDE (model_id, layer, head) FROM skip_trigrams
    WHERE model_id = $model_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT AND rank <= $k
), place AS (
    SELECT DISTINCT k.rank, p.position_id
    FROM known k
    JOIN base.position p ON p.run_id = $run AND p.token_id = k.destination_token_id AND p.next_token_id = k.output_token_id
    JOIN base.position s ON s.run_id = $run AND s.token_id = k.source_token_id AND s.window_id = p.window_id
                        AND s.position_id BETWEEN p.position_id - 16 AND p.position_id - 2
), seen AS (
    SELECT rank, count(*) AS places, avg(toward_next) AS mean_toward_next
    FROM place JOIN (FROM heads
                     WHERE run_id = $run AND layer = $layer::UTINYINT AND head = $head::UTINYINT) USING (position_id)
    GROUP BY rank
)
SELECT known.*, CASE WHEN $run IS NOT NULL THEN coalesce(places, 0) END AS places, mean_toward_next
FROM known LEFT JOIN seen USING (rank) ORDER BY rank

-- name: head_compositions
SELECT kind::VARCHAR AS kind, 'reads' AS how, earlier_layer AS layer, earlier_head AS head, score, baseline, z, p, pairs, by_chance
FROM head_composition c WHERE model_id = $model_id AND c.layer = $layer::UTINYINT AND c.head = $head::UTINYINT
UNION ALL
SELECT kind::VARCHAR, 'is read by', layer, head, score, baseline, z, p, pairs, by_chance
FROM head_composition WHERE model_id = $model_id AND earlier_layer = $layer::UTINYINT AND earlier_head = $head::UTINYINT
ORDER BY z DESC, how, kind, layer, head LIMIT $k

-- name: compositions
SELECT * EXCLUDE (model_id) FROM head_composition WHERE model_id = $model_id AND coalesce(kind = $kind, true)
ORDER BY z DESC, kind, layer, head, earlier_layer, earlier_head LIMIT $k
