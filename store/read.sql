-- The queries of the classes Store, Neuron and Head of the package `store`. They have these parameters: $run is the id
-- of a run and is never NULL. $before and $after are the numbers of characters to show of the document before and after
-- a token. $tokenizer and $context are the tokenizer_id and the context length of the run.
-- Names in braces are placeholders: {toward} stands for the column toward_next or toward_top, and {lists},
-- {list_sources}, {samples} and {neurons} stand for tables. store/question.py fills in $tokenizer, $context and the
-- placeholders.

-- Provenance and text -----------------------------------------------------------------------------

-- name: in_context
-- Add the token and the text around it to each row of the common table expression `hits`, which has one position per
-- row. DuckDB uses the indexes of base.position and base.passage only if it expects few rows. Two things make it expect
-- few: every query that defines `hits` has a LIMIT, and each common table expression has only one join.
, placed AS MATERIALIZED (
    SELECT hits.*, p.run_id, p.document_id, p.window_id, p.position, p.token_id, p.char_start, p.char_end,
           p.next_token_id, p.top_token_id, p.next_logprob, p.next_rank
    FROM base.position p JOIN hits USING (position_id)
)
{with_text}

-- name: with_text
-- Each row of the common table expression `placed` describes one position, with columns of base.position. Add to each
-- row the texts of its token, its next token and its top prediction, and the document's text around the token.
, {around}, names AS (
    SELECT map(list(token_id), list(token)) AS of FROM base.token
    WHERE tokenizer_id = $tokenizer
      AND token_id IN (SELECT unnest([token_id, next_token_id, top_token_id]) FROM placed)
)
SELECT a.* EXCLUDE (before, text, after), n.of[token_id] AS token, n.of[next_token_id] AS next_token,
       n.of[top_token_id] AS top_token, a.before, a.text, a.after
FROM around a CROSS JOIN names n

-- name: around
-- Each row of the common table expression `placed` has a document_id and a range of characters in the document
-- (char_start to char_end). Add to each row the text in this range (`text`) and the texts before and after it
-- (`before`, `after`). A BOS has no characters, so its three texts are NULL.
begun AS (
    SELECT *, least($before, char_start) AS here, char_end - char_start AS length, coalesce(char_start - here, 0) AS first,
           base.passage_id(document_id, first) AS passage_id
    FROM placed
), lines AS MATERIALIZED (
    -- MATERIALIZED, because DuckDB would otherwise cut each line out of its passage three times:
    -- for the columns before, text and after
    SELECT b.*, base.excerpt(p.text, first, here + length + $after) AS line
    FROM begun b JOIN base.passage p USING (passage_id)
), around AS (
    SELECT * EXCLUDE (here, length, first, passage_id, line), substring(line, 1, here) AS before,
           substring(line, here + 1, length) AS text, substring(line, here + length + 1) AS after
    FROM lines
)

-- name: facts
-- The tokenizer_id and the context length of a run. They never change, so they are read only once and given to later
-- queries as parameters. This saves each later query two joins of 0.2 ms each.
SELECT max(tokenizer_id) AS tokenizer, max((settings->>'context')::INTEGER) AS context
FROM base.run JOIN base.model USING (model_id) WHERE run_id = $run

-- name: subjects
-- The runs and the models to verify. There is a row for each run, with its run_id and its model_id, and a row for each
-- model, with NULL as run_id. Every run_id that occurs in base.run, base.shard or base.checksum is verified, so a run
-- is verified even if its row in base.run is missing.
SELECT run_id, model_id
FROM (SELECT run_id FROM base.run UNION SELECT run_id FROM base.shard UNION SELECT owner_id FROM base.checksum WHERE owner = 'run')
LEFT JOIN base.run USING (run_id)
UNION SELECT NULL, model_id FROM base.model
UNION SELECT NULL, model_id FROM base.weights
UNION SELECT NULL, owner_id FROM base.checksum WHERE owner = 'model'
ORDER BY model_id, run_id

-- name: bytes_of_tokens
SELECT token_id, token, bytes FROM base.token JOIN base.model USING (tokenizer_id) WHERE model_id = $model_id ORDER BY token_id

-- name: whole_corpus
-- All documents of a run's corpus, in order: one row per document, with its text, its metadata and the sha256 of the
-- whole corpus. If even one document of the corpus is not stored, the query returns no rows at all.
SELECT c.sha256, d.text, d.metadata
FROM base.run r JOIN base.corpus c USING (corpus_id) JOIN base.document d USING (corpus_id)
WHERE r.run_id = $run AND c.documents = (SELECT count(*) FROM base.document e WHERE e.corpus_id = c.corpus_id)
ORDER BY d.document_id

-- name: chosen_run
SELECT (SELECT arg_max(run_id, finished) FROM base.run WHERE status = 'finished') AS latest,
       coalesce((SELECT list(run_id ORDER BY run_id)
                 FROM (SELECT run_id FROM base.run UNION SELECT run_id FROM base.shard)), []) AS runs,
       coalesce((SELECT list(run_id) FROM base.run WHERE status = 'finished'), []) AS finished,
       EXISTS (FROM base.neuron_code) AS coded

-- name: comparable
SELECT a.corpus_id = b.corpus_id AS corpus, a.weights_sha256 = b.weights_sha256 AS weights, (m.n_layers, m.n_heads, m.d_mlp) = (n.n_layers, n.n_heads, n.d_mlp) AS shape_of_model
FROM runs a JOIN models m USING (model_id), runs b JOIN models n USING (model_id)
WHERE a.run_id = $run AND b.run_id = $other

-- name: shape
SELECT m.* FROM models m JOIN base.run r USING (model_id) WHERE r.run_id = $run

-- name: documents
SELECT document_id, source, length(text) AS characters, metadata, text
FROM documents WHERE corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run) ORDER BY document_id

-- name: token_id
SELECT token_id FROM base.token
WHERE tokenizer_id = $tokenizer
  AND CASE $match WHEN 'exact' THEN token = $text WHEN 'id' THEN token_id = try_cast($text AS INTEGER) END

-- name: tokens
WITH wanted AS (
    SELECT token_id, token FROM vocabulary
    WHERE model_id = (SELECT model_id FROM runs WHERE run_id = $run)
      AND CASE $match
              WHEN 'exact' THEN token = $text
              WHEN 'prefix' THEN starts_with(token, $text)
              WHEN 'regex' THEN regexp_matches(token, $text)
              WHEN 'id' THEN token_id = try_cast($text AS INTEGER)
              WHEN 'like' THEN lower(trim(token)) = lower(trim($text))
          END
)
SELECT w.token_id, w.token, count(p.position_id) AS occurrences
FROM wanted w LEFT JOIN base.position p ON p.run_id = $run AND p.token_id = w.token_id
GROUP BY w.token_id, w.token ORDER BY occurrences DESC, w.token_id

-- name: occurrences
-- The positions of a run at which a token occurs, from the first one on. The rows of a run are stored in the order of
-- position_id, so LIMIT without ORDER BY takes the first positions, and DuckDB does not read the rows after them.
WITH placed AS MATERIALIZED (
    SELECT position_id, run_id, document_id, window_id, position, token_id, char_start, char_end,
           next_token_id, top_token_id, next_logprob, next_rank
    FROM base.position
    WHERE run_id = $run AND token_id = $token_id LIMIT $limit OFFSET $offset
)
{with_text}
ORDER BY position_id

-- name: occurrences_total
SELECT count(*) AS total FROM base.position WHERE run_id = $run AND token_id = $token_id

-- name: phrase_positions
-- For each match of a searched text, the first and the last position that have a part of the match. The common table
-- expression `chosen` has the matches: document_id and the range of characters from `low` to `high`. A match is left
-- out if the run has read only a part of it.
nearby AS ( -- limits the join below to the passages in which the tokens of a match begin; otherwise each match would be compared with all positions of a long document
    SELECT *, unnest(generate_series(greatest(base.passage_of(low) - 1, 0), base.passage_of(high))) AS passage
    FROM chosen
),
held AS (
    SELECT c.document_id, c.low, c.high, min(p.position_id) AS first_position_id, max(p.position_id) AS last_position_id,
           min(p.char_start) AS char_start, max(p.char_end) AS char_end
    FROM nearby c
    JOIN base.position p ON p.document_id = c.document_id AND base.passage_of(p.char_start) = c.passage
    WHERE p.run_id = $run AND p.char_start < c.high AND p.char_end > c.low
    GROUP BY c.document_id, c.low, c.high
    HAVING min(p.char_start) <= c.low AND max(p.char_end) >= c.high
)

-- name: phrase_total
WITH chosen AS MATERIALIZED (SELECT document_id, low, high FROM base.found($text, $run)),
{phrase_positions}
SELECT count(*) AS total FROM held

-- name: phrase
WITH chosen AS MATERIALIZED (
    SELECT document_id, low, high FROM base.found($text, $run) ORDER BY document_id, low LIMIT $limit OFFSET $offset
),
{phrase_positions},
begun AS (
    SELECT *, least($before, low) AS here, base.passage_id(document_id, low - here) AS passage_before,
           base.passage_id(document_id, high) AS passage_after
    FROM held
)
SELECT document_id, first_position_id, last_position_id, low AS char_start, high AS char_end,
       char_start = low AND char_end = high AS whole_tokens, base.excerpt(b.text, low - here, here) AS before,
       base.span(document_id, low, high) AS text, coalesce(base.excerpt(a.text, high, $after), '') AS after -- '' at the end of a document, because no passage follows there
FROM begun JOIN base.passage b ON b.passage_id = passage_before LEFT JOIN base.passage a ON a.passage_id = passage_after
ORDER BY document_id, low

-- name: position
WITH placed AS MATERIALIZED (FROM positions WHERE position_id = $position_id LIMIT 1), {around}
SELECT a.* EXCLUDE (before, text, after), d.source, d.metadata, a.before, a.text, a.after
FROM around a JOIN base.document d USING (document_id)

-- Terms of a prediction ---------------------------------------------------------------------------

-- name: by_term
SELECT 'neuron' AS component, n.layer, NULL::UTINYINT AS head, n.neuron, n.toward_next, n.toward_top
FROM {neurons} n WHERE n.position_id = $position_id
UNION ALL
FROM base.terms($position_id)

-- name: by_component
SELECT component::VARCHAR AS component, layer, toward_next, toward_top FROM contributions WHERE position_id = $position_id
ORDER BY layer NULLS FIRST, component

-- name: by_layer
SELECT layer, sum(toward_next) AS toward_next, sum(toward_top) AS toward_top FROM contributions
WHERE position_id = $position_id GROUP BY layer ORDER BY layer NULLS FIRST

-- name: by_head
SELECT layer, head, toward_next, toward_top, top_source_position_id, top_source_attention, output_norm
FROM heads WHERE position_id = $position_id ORDER BY layer, head

-- name: text_by_loss
-- The loss of each token, which is in the row of the position before; the first token of a window has none.
SELECT {token_in_text}, -lag(p.next_logprob) OVER (ORDER BY p.position_id) AS value
FROM positions p {its_passage} WHERE {in_window} ORDER BY p.position_id

-- name: text_by_neuron
SELECT {token_in_text}, n.activation AS value FROM positions p {its_passage}
LEFT JOIN {neurons} n ON n.position_id = p.position_id AND n.layer = $layer AND n.neuron = $unit
                     AND n.position_id BETWEEN $first AND $last
WHERE {in_window} ORDER BY p.position_id

-- name: text_by_head
SELECT {token_in_text}, h.toward_next AS value FROM positions p {its_passage}
LEFT JOIN heads h ON h.position_id = p.position_id AND h.run_id = p.run_id AND h.layer = $layer AND h.head = $unit
                 AND h.position_id BETWEEN $first AND $last
WHERE {in_window} ORDER BY p.position_id

-- name: token_in_text
p.position_id, p.token, base.excerpt(s.text, p.char_start, p.char_end - p.char_start) AS text, p.char_start, p.char_end

-- name: its_passage
LEFT JOIN base.passage s ON s.passage_id = base.passage_id(p.document_id, p.char_start)

-- name: in_window
p.run_id = $run AND p.position_id BETWEEN $first AND $last AND p.window_id = $window

-- name: by_neuron
SELECT n.layer, n.neuron, n.activation, n.toward_next, n.toward_top FROM {neurons} n
WHERE n.position_id = $position_id ORDER BY abs(n.toward_top) DESC, n.layer, n.neuron

-- name: by_source
SELECT s.layer, s.head, s.source_position_id, t.token AS source_token, s.position_id - s.source_position_id AS distance,
       s.attention, s.toward_next, s.toward_top
FROM head_sources s JOIN base.position p ON p.position_id = s.source_position_id
LEFT JOIN base.token t ON t.tokenizer_id = $tokenizer AND t.token_id = p.token_id
WHERE s.position_id = $position_id ORDER BY abs(s.toward_top) DESC, s.layer, s.head, s.source_position_id

-- name: neuron_bounds
SELECT max(activation_bound) AS activation_bound, max(next_bound) AS next_bound, max(top_bound) AS top_bound,
       (SELECT n_layers * d_mlp FROM base.run JOIN base.model USING (model_id) WHERE run_id = $run) AS total
FROM neuron_bounds WHERE position_id = $position_id

-- name: activation_error
-- A run may store activations as codes of a few bits, which rounds them. This query returns the largest rounding error
-- of the activations that are stored as codes at the position; NULL if there are none.
SELECT max(step)::FLOAT / 2 AS error FROM base.neuron_code WHERE position_id = $position_id

-- name: activation_error_of_run
-- A run may store activations as codes of a few bits, which rounds them. This query returns the largest rounding error
-- of all activations that the run stores as codes in the given layers; NULL if there are none.
SELECT max(step)::FLOAT / 2 AS error FROM base.neuron_code WHERE run_id = $run AND list_contains($layers, layer)

-- name: source_bound
-- Two numbers about the pairs of a head and a source at a position. effect_bound: an upper bound of the absolute direct
-- effect of a pair that is not stored. total: the number of all pairs, stored or not. The sources of each head are the
-- position itself and the earlier positions of the window.
SELECT source_bound::FLOAT AS effect_bound, n_layers * n_heads * (position + 1) AS total
FROM base.position JOIN base.run USING (run_id) JOIN base.model USING (model_id) WHERE position_id = $position_id

-- name: terms_of_logit
SELECT if(layer IS NULL, c.component::VARCHAR, 'layer') AS component, layer, sum({toward}::DOUBLE) AS value
FROM contributions c WHERE position_id = $position_id
GROUP BY 1, 2 ORDER BY min(c.component) NOT IN ('embed', 'pos_embed'), layer NULLS LAST, min(c.component)

-- name: terms_of_layer
SELECT component::VARCHAR AS component, layer, {toward}::DOUBLE AS value FROM contributions
WHERE position_id = $position_id AND layer = $layer::UTINYINT ORDER BY contributions.component

-- name: terms_of_attn
(SELECT 'head' AS component, layer, head, {toward}::DOUBLE AS value FROM heads
 WHERE position_id = $position_id AND layer = $layer::UTINYINT ORDER BY head)
UNION ALL BY NAME
SELECT component::VARCHAR AS component, layer, {toward}::DOUBLE AS value FROM contribution_details
WHERE position_id = $position_id AND layer = $layer::UTINYINT AND component = 'attn_bias'

-- name: terms_of_mlp
WITH kept AS MATERIALIZED (
    SELECT 'neuron' AS component, layer, neuron, activation, {toward}::DOUBLE AS value FROM {neurons}
    WHERE position_id = $position_id AND layer = $layer::UTINYINT ORDER BY abs(value) DESC, neuron
),
detail AS MATERIALIZED (
    SELECT run_id, component::VARCHAR AS component, layer, {toward}::DOUBLE AS value, {bound}::DOUBLE AS bound
    FROM contribution_details WHERE position_id = $position_id AND layer = $layer::UTINYINT
)
FROM kept
UNION ALL BY NAME
SELECT component, layer, value, m.d_mlp - (SELECT count(*) FROM kept) AS count,
       (SELECT bound FROM detail WHERE component = 'mlp_remainder_abs') AS bound
FROM detail JOIN base.run USING (run_id) JOIN models m USING (model_id) WHERE component = 'mlp_remainder'
UNION ALL BY NAME
SELECT component, layer, value FROM detail WHERE component = 'mlp_bias'

-- name: terms_of_head
-- The terms of a head's direct effect at a position: one row per stored source, and one row (source_remainder) for the
-- sum of the terms of all other sources. `count` is the number of these other sources. A head can read from the
-- position itself and from all earlier positions of the window, so it has as many sources as the index of the position
-- in the window (from 0) plus 1. This includes positions that are stored with an earlier window, because the windows
-- overlap.
WITH kept AS MATERIALIZED (
    SELECT layer, head, source_position_id, attention, {toward}::DOUBLE AS value FROM head_sources
    WHERE position_id = $position_id AND layer = $layer::UTINYINT AND head = $head::UTINYINT
)
(SELECT 'source' AS component, k.layer, k.head, k.source_position_id,
        $position_id - k.source_position_id AS distance, p.token AS source_token, k.attention, k.value
 FROM kept k JOIN positions p ON p.position_id = k.source_position_id ORDER BY abs(k.value) DESC, distance)
UNION ALL BY NAME
SELECT 'source_remainder' AS component, h.layer, h.head,
       {toward}::DOUBLE - (SELECT coalesce(sum(value), 0) FROM kept) AS value,
       p.position + 1 - (SELECT count(*) FROM kept) AS count, {sides} * p.source_bound::FLOAT AS bound
FROM heads h JOIN base.position p USING (run_id, position_id)
WHERE h.position_id = $position_id AND h.layer = $layer::UTINYINT AND h.head = $head::UTINYINT

-- name: exact_beside_estimate
-- The units (neurons and heads) whose total effects were measured by ablation, one row per unit. The column `estimate`
-- has the unit's mean total effect as estimated by attribution patching.
SELECT a.*, e.mean_total AS estimate
FROM unit_effects a JOIN unit_effects e USING (run_id, kind, layer, unit, replaced_by, sample, seed)
WHERE a.run_id = $run AND a.sample = $sample AND a.seed = $seed AND a.replaced_by = $by
  AND a.effect_method = 'ablation' AND e.effect_method = 'attribution'

-- name: unit_effects_beside
-- The effects of units (neurons and heads) as measured by ablation, beside their estimates by attribution patching.
-- First come the units that were chosen for their large estimates, then the units that were drawn at random. Each of
-- these two groups is sorted by mean absolute total effect, largest first.
{exact_beside_estimate} ORDER BY a.is_random, a.mean_abs_total DESC, a.kind, a.layer, a.unit

-- name: unit_effects_trust
WITH beside AS ({exact_beside_estimate})
SELECT kind, is_random, count(*) AS units, corr(mean_total, estimate) AS correlation,
       avg((sign(mean_total) = sign(estimate))::INTEGER) AS same_sign, avg(abs(mean_total)) AS exact, avg(abs(estimate)) AS estimate
FROM beside GROUP BY ALL ORDER BY ALL

-- name: later
-- The common table expression `later` has a given position and the later positions of its window. A window has at most
-- as many positions as the context length, so only a short range of position_id can belong to it. With this range in
-- the condition, DuckDB reads few rows.
WITH later AS MATERIALIZED (
    FROM base.position
    WHERE position_id BETWEEN $position_id AND $position_id + $context
      AND window_id = (SELECT window_id FROM base.position WHERE position_id = $position_id LIMIT 1)
)

-- name: sends_bound
{later}
SELECT max(source_bound)::FLOAT AS effect_bound FROM later

-- name: sends
{later},
names AS (
    SELECT map(list(token_id), list(token)) AS of FROM base.token
    WHERE tokenizer_id = $tokenizer AND token_id IN (SELECT unnest([token_id, next_token_id]) FROM later)
)
SELECT s.layer, s.head, s.position_id, n.of[l.token_id] AS token, n.of[l.next_token_id] AS next_token,
       s.position_id - s.source_position_id AS distance,
       s.attention, s.toward_next, s.toward_top, l.next_logit, l.next_logprob, l.source_bound::FLOAT AS source_bound,
       (SELECT max(source_bound)::FLOAT FROM later) AS effect_bound
FROM later l
JOIN head_sources s USING (position_id)
CROSS JOIN names n
WHERE s.position_id BETWEEN $position_id AND $position_id + $context AND s.source_position_id = $position_id
ORDER BY greatest(abs(s.toward_top), abs(coalesce(s.toward_next, 0))) DESC, s.position_id, s.layer, s.head
LIMIT $limit

-- name: sends_total
{later}
SELECT count(*) AS total FROM later JOIN head_sources s USING (position_id)
WHERE s.position_id BETWEEN $position_id AND $position_id + $context AND s.source_position_id = $position_id

-- name: compare_positions
WITH chosen AS MATERIALIZED (
    SELECT a.position_id AS id_a, b.position_id AS id_b
    FROM base.position a JOIN base.position b USING (document_id, window_id, position)
    WHERE a.run_id = $run AND b.run_id = $other AND a.next_token_id IS NOT NULL AND a.token_id = b.token_id
      AND a.char_start IS NOT DISTINCT FROM b.char_start -- if the runs have different window lengths, positions with the same ids may have different text
    ORDER BY abs(a.next_logprob - b.next_logprob) DESC, a.position_id LIMIT $k
),
placed AS (
    SELECT a.document_id, a.window_id, a.position, a.position_id AS position_id_a, b.position_id AS position_id_b,
           a.token, a.next_token, -a.next_logprob AS loss_a, -b.next_logprob AS loss_b, a.next_logprob - b.next_logprob AS loss_change,
           a.top_token AS top_token_a, b.top_token AS top_token_b, a.char_start, a.char_end
    FROM chosen JOIN positions a ON a.position_id = id_a JOIN positions b ON b.position_id = id_b
),
{around}
FROM around ORDER BY abs(loss_change) DESC, position_id_a

-- Neurons and heads over a run --------------------------------------------------------------------

-- name: neuron_contexts
WITH hits AS MATERIALIZED (
    SELECT list::VARCHAR AS side, rank, value AS activation, position_id
    FROM {lists}
    WHERE run_id = $run AND kind = 'neuron' AND list IN ('high', 'low') AND layer = $layer AND unit = $unit AND rank <= $k
      AND (side = $side OR $side = 'both')
    LIMIT 2 * $k
)
{in_context}
ORDER BY side, rank

-- name: neuron_windows
WITH hits AS MATERIALIZED (
    SELECT rank, value AS activation, position_id FROM {lists}
    WHERE run_id = $run AND kind = 'neuron' AND list = 'window' AND layer = $layer AND unit = $unit AND rank <= $k
    LIMIT $k
)
{in_context}
ORDER BY rank

-- name: head_contexts
WITH tops AS MATERIALIZED (
    SELECT list::VARCHAR AS side, rank, value AS toward_next, position_id
    FROM {lists}
    WHERE run_id = $run AND kind = 'head' AND layer = $layer AND unit = $unit AND rank <= $k
      AND (side = $side OR $side = 'both')
    LIMIT 2 * $k
),
looking AS MATERIALIZED (
    SELECT t.side, t.rank, t.toward_next, s.position_id - s.source_offset AS top_source_position_id,
           s.attention::FLOAT AS top_source_attention, s.position_id
    FROM {list_sources} s JOIN tops t USING (position_id)
    WHERE s.run_id = $run AND s.layer = $layer AND s.head = $unit
),
sources AS MATERIALIZED (
    SELECT l.*, q.document_id, q.char_start, q.char_end
    FROM base.position q JOIN looking l ON q.position_id = l.top_source_position_id
),
hits AS MATERIALIZED (
    SELECT side, rank, toward_next, top_source_position_id, top_source_attention, position_id,
           before AS source_before, text AS source_text, after AS source_after
    FROM (WITH placed AS (FROM sources), {around} FROM around)
)
{in_context}
ORDER BY side, rank

-- name: neuron_samples
SELECT position_id, value FROM {samples} WHERE run_id = $run AND kind = 'neuron' AND layer = $layer AND unit = $unit

-- name: head_samples
SELECT position_id, value FROM {samples} WHERE run_id = $run AND kind = 'head' AND layer = $layer AND unit = $unit AND value IS NOT NULL

-- name: quantiles
-- Example positions for small, medium and large values of a unit (neuron or head). The positions of the random sample
-- are sorted by the unit's value and divided into bins with the same number of positions. The examples of a bin are the
-- positions with the smallest hashes: a choice that looks random, but is the same in each call.
WITH binned AS (SELECT s.*, ntile($bins) OVER (ORDER BY value, position_id) AS bin FROM ({unit_samples}) s),
drawn AS (
    SELECT bin, min(value) AS low, max(value) AS high, count(*) AS sampled,
           unnest(arg_min({'value': value, 'position_id': position_id}, (hash(position_id), position_id), $k), recursive := true)
    FROM binned GROUP BY bin
),
hits AS MATERIALIZED (FROM drawn LIMIT $bins * $k)
{in_context}
ORDER BY bin DESC, value DESC, position_id

-- name: interval
-- Example positions at which the value of a unit (neuron or head) is in one bin of its histogram. They are taken from
-- the random sample and from the unit's top-k lists, because at other positions the store may lack the unit's value.
WITH known AS (
    SELECT position_id, value FROM ({unit_samples})
    UNION ALL
    SELECT position_id, value FROM {lists}
    WHERE run_id = $run AND kind = $kind::unit_kind AND layer = $layer AND unit = $unit
),
inside AS (
    SELECT k.position_id, max(k.value) AS value FROM known k, histogram_bins b
    WHERE b.bin = $bin AND CASE WHEN b.high <= 0 THEN k.value <= b.high AND k.value > coalesce(b.low, '-inf')
                                ELSE k.value >= b.low AND k.value < coalesce(b.high, 'inf') END
    GROUP BY k.position_id
),
hits AS MATERIALIZED (
    SELECT value, position_id FROM inside ORDER BY hash(position_id), position_id LIMIT $k
)
{in_context}
ORDER BY hash(position_id), position_id

-- name: in_group
-- The positions of a run, or of its random sample, in the order of position_id, each with whether it is in a group. The
-- parameters say which tokens are in the group: those that match a regular expression, and those with these ids; NULL
-- stands for all tokens. A condition on the metadata says which documents are in it.
SELECT p.position_id, p.document_id, p.window_id, p.next_token_id,
       ($pattern IS NULL OR regexp_matches(t.token, $pattern))
       AND ($token_ids IS NULL OR list_contains($token_ids, p.token_id)) AND ({in_documents}) AS inside
FROM base.position p JOIN base.token t ON t.tokenizer_id = $tokenizer AND t.token_id = p.token_id
WHERE p.run_id = $run AND p.position_id NOT IN (SELECT position_id FROM base.left_out WHERE run_id = $run)
  AND ($over <> 'sample' OR p.position_id IN (SELECT position_id FROM base.sample_position WHERE run_id = $run))
ORDER BY p.position_id

-- name: window_ends
-- The last position of each position's window that is at most $after tokens later, and its next token.
SELECT here.position_id, max(p.position_id) AS last, arg_max(p.next_token_id, p.position_id) AS next_token_id
FROM base.position here JOIN base.position p USING (run_id, document_id, window_id)
WHERE run_id = $run AND here.position_id IN (SELECT unnest($position_ids))
  AND p.position_id BETWEEN here.position_id AND here.position_id + $after
GROUP BY here.position_id ORDER BY here.position_id

-- name: sample_of_layer
SELECT value FROM {samples} WHERE run_id = $run AND kind = $kind::unit_kind AND layer = $layer::UTINYINT
ORDER BY unit, position_id

-- name: head_rows
SELECT position_id, toward_next AS value FROM heads WHERE run_id = $run AND layer = $layer AND head = $unit
ORDER BY position_id

-- name: companions
-- The neurons and heads whose values correlate most with the values of a given unit (neuron or head), at the positions
-- of a finished run's random sample. The largest of many correlations is large even by chance. To show how large, the
-- values of the given unit are permuted 19 times with fixed seeds, and each permutation is correlated with every other
-- neuron and head: largest_permuted is the largest abs(r) of all these. For them, a missing value is replaced by the
-- mean.
WITH own AS MATERIALIZED (
    SELECT unnest(values)::FLOAT AS value, generate_subscripts(values, 1) AS place
    FROM base.sample_unit WHERE run_id = $run AND kind = $kind AND layer = $layer AND unit = $unit
),
others AS (
    SELECT kind, layer, unit, unnest(values)::FLOAT AS value, generate_subscripts(values, 1) AS place
    FROM base.sample_unit
    WHERE run_id = $run AND (kind, layer, unit) <> ($kind::unit_kind, $layer::UTINYINT, $unit::UINTEGER)
),
correlated AS MATERIALIZED (
    SELECT kind, layer, unit, corr(own.value, others.value) AS correlation, regr_count(own.value, others.value) AS positions
    FROM others JOIN own USING (place)
    GROUP BY kind, layer, unit
    HAVING isfinite(correlation)
),
permuted AS MATERIALIZED (
    SELECT list(coalesce(value - mean, 0)::DOUBLE ORDER BY hash(place, draw), place) AS value, any_value(length) AS length
    FROM own, (SELECT avg(value) AS mean, sqrt(count(value) * var_pop(value)) AS length FROM own), range(19) d(draw)
    GROUP BY draw
),
candidates AS MATERIALIZED (
    SELECT list_transform(values, lambda v: coalesce(v, mean)::DOUBLE) AS value, length
    FROM (SELECT values, list_avg(values) AS mean, sqrt(list_count(values) * list_var_pop(values)) AS length
          FROM base.sample_unit
          WHERE run_id = $run AND (kind, layer, unit) <> ($kind::unit_kind, $layer::UTINYINT, $unit::UINTEGER))
),
by_chance AS MATERIALIZED (
    SELECT max(abs(list_inner_product(p.value, c.value)) / (p.length * c.length)) AS largest_permuted
    FROM candidates c, permuted p WHERE c.length > 0
)
SELECT base.unit_name(kind, layer, unit) AS name, kind::VARCHAR AS kind, layer, unit, correlation, positions,
       largest_permuted, 19 AS permutations, (SELECT count(*) FROM candidates WHERE length > 0) AS candidates
FROM correlated, by_chance
ORDER BY abs(correlation) DESC, kind, layer, unit LIMIT $k

-- name: neuron_stats
FROM neuron_stats WHERE run_id = $run AND layer = $layer AND neuron = $unit

-- name: head_stats
FROM head_stats WHERE run_id = $run AND layer = $layer AND head = $unit

-- name: histogram
SELECT b.bin, b.low, b.high, s.histogram[b.bin] AS positions
FROM histogram_bins b, ({unit_stats}) s ORDER BY b.bin

-- name: neuron_tokens
WITH kept AS MATERIALIZED (
    SELECT p.token_id, n.activation FROM base.position p JOIN {neurons} n USING (position_id)
    WHERE p.run_id = $run AND n.run_id = $run AND n.layer = $layer AND n.neuron = $unit
),
most_kept AS MATERIALIZED (
    SELECT token_id, count(*) AS kept, avg(activation) AS mean_kept_activation, max(activation) AS max_activation
    FROM kept GROUP BY token_id ORDER BY count(*) DESC, token_id LIMIT $k
),
occurring AS (
    SELECT token_id, count(*) AS occurrences FROM base.position
    WHERE run_id = $run AND token_id IN (SELECT token_id FROM most_kept) GROUP BY token_id
)
SELECT k.token_id, t.token, k.kept, o.occurrences, k.kept / o.occurrences AS fraction_kept, k.mean_kept_activation, k.max_activation
FROM most_kept k JOIN occurring o USING (token_id) JOIN base.token t USING (token_id)
WHERE t.tokenizer_id = $tokenizer
ORDER BY k.kept DESC, k.token_id

-- name: neuron_effects
WITH toward AS (
    SELECT p.next_token_id, count(*) AS kept, avg(n.toward_next) AS mean_kept_effect, sum(n.toward_next) AS total_effect
    FROM base.position p JOIN {neurons} n USING (position_id)
    WHERE p.run_id = $run AND n.run_id = $run AND n.layer = $layer AND n.neuron = $unit AND p.next_token_id IS NOT NULL
    GROUP BY p.next_token_id ORDER BY abs(sum(n.toward_next)) DESC, p.next_token_id LIMIT $k
)
SELECT e.next_token_id, t.token AS next_token, e.kept, e.mean_kept_effect, e.total_effect
FROM toward e JOIN base.token t ON t.token_id = e.next_token_id
WHERE t.tokenizer_id = $tokenizer
ORDER BY abs(e.total_effect) DESC, e.next_token_id

-- name: head_effects
WITH toward AS (
    SELECT p.next_token_id, count(*) AS positions, avg(base.logits(h.toward_next)) AS mean_effect, sum(base.logits(h.toward_next)) AS total_effect
    FROM base.position p JOIN base.head h USING (position_id)
    WHERE p.run_id = $run AND h.run_id = $run AND h.layer = $layer AND h.head = $unit AND p.next_token_id IS NOT NULL
    GROUP BY p.next_token_id ORDER BY abs(sum(h.toward_next)) DESC, p.next_token_id LIMIT $k
)
SELECT e.next_token_id, t.token AS next_token, e.positions, e.mean_effect, e.total_effect
FROM toward e JOIN base.token t ON t.token_id = e.next_token_id
WHERE t.tokenizer_id = $tokenizer
ORDER BY abs(e.total_effect) DESC, e.next_token_id

-- name: head_tokens
WITH attended AS (
    SELECT q.token_id, count(*) AS positions, avg(h.attention) AS mean_attention, avg(base.logits(h.toward_next)) AS mean_effect
    FROM base.head h JOIN base.position q ON q.position_id = h.position_id - h.source_offset
    WHERE q.run_id = $run AND h.run_id = $run AND h.layer = $layer AND h.head = $unit
    GROUP BY q.token_id ORDER BY count(*) DESC, q.token_id LIMIT $k
)
SELECT a.token_id, t.token, a.positions, a.mean_attention, a.mean_effect
FROM attended a JOIN base.token t USING (token_id)
WHERE t.tokenizer_id = $tokenizer
ORDER BY a.positions DESC, a.token_id

-- name: head_destinations
WITH destinations AS (
    SELECT p.token_id, count(*) AS positions, avg(h.attention) AS mean_attention,
           avg(base.logits(h.toward_next)) AS mean_effect, sum(base.logits(h.toward_next)) AS total_effect
    FROM base.position p JOIN base.head h USING (position_id)
    WHERE p.run_id = $run AND h.run_id = $run AND h.layer = $layer AND h.head = $unit AND p.next_token_id IS NOT NULL
    GROUP BY p.token_id ORDER BY abs(sum(h.toward_next)) DESC, p.token_id LIMIT $k
)
SELECT d.token_id, t.token, d.positions, d.mean_attention, d.mean_effect, d.total_effect
FROM destinations d JOIN base.token t USING (token_id)
WHERE t.tokenizer_id = $tokenizer
ORDER BY abs(d.total_effect) DESC, d.token_id

-- name: head_distances
WITH going_on AS MATERIALIZED (
    SELECT run_id FROM base.run WHERE run_id = $run AND NOT EXISTS (FROM base.head_offset WHERE run_id = $run)
),
summed AS (
    SELECT source_offset, positions, attention::DOUBLE AS attention, effects, base.logits(effect)::DOUBLE AS effect
    FROM base.head_offset WHERE run_id = $run AND layer = $layer AND head = $unit
    UNION ALL
    SELECT source_offset, count(*), sum(attention)::DOUBLE, count(toward_next), sum(base.logits(toward_next))
    FROM base.head JOIN going_on USING (run_id) ANTI JOIN base.left_out USING (run_id, position_id) WHERE layer = $layer AND head = $unit GROUP BY source_offset
)
SELECT source_offset::INTEGER AS distance, positions, positions / (SELECT sum(positions) FROM summed) AS share,
       attention / positions AS mean_attention, effect / nullif(effects, 0) AS mean_effect
FROM summed ORDER BY source_offset

-- name: stats
SELECT r.run_id, r.model, r.revision, r.status::VARCHAR AS status, count(*) AS positions,
       count(DISTINCT p.document_id) AS documents, -avg(p.next_logprob) AS loss,
       avg((p.next_rank = 1)::INTEGER) AS top1, avg(p.entropy) AS entropy, max(r.worst_closure) AS worst_closure,
       max(r.worst_closure_ratio) AS worst_closure_ratio, any_value(r.special_excluded) AS special_excluded,
       any_value(r.hf_difference) AS hf_difference, m.family, m.norm::VARCHAR AS norm, m.position_embedding::VARCHAR AS position_embedding,
       m.n_heads, m.n_kv_heads, m.activation, m.is_gated, m.has_post_norms, m.logit_cap
FROM base.position p JOIN runs r USING (run_id) JOIN base.model m USING (model_id) WHERE p.run_id = $run
GROUP BY ALL

-- name: sums_by_document
-- For each document of a run: the sum of a value over the document's positions that fulfil a condition, and the number
-- of these positions. If the caller also gives expressions to group by, there is one row for each document and group.
SELECT v.* EXCLUDE (run_id, position_id, value_of_position), p.document_id,
       sum(v.value_of_position) AS total, count(v.value_of_position) AS positions
FROM (SELECT run_id, position_id, ({value})::DOUBLE AS value_of_position{groups}
      FROM {rows_of} WHERE run_id = $run AND ({condition})) v
JOIN base.position p USING (run_id, position_id)
GROUP BY ALL HAVING count(v.value_of_position) > 0
ORDER BY p.document_id

-- name: compare_neurons
SELECT layer, neuron, a.mean AS mean_a, b.mean AS mean_b, a.max AS max_a, b.max AS max_b,
       a.mean_abs_effect AS mean_abs_effect_a, b.mean_abs_effect AS mean_abs_effect_b,
       b.mean_abs_effect - a.mean_abs_effect AS change
FROM neuron_stats a JOIN neuron_stats b USING (layer, neuron) WHERE a.run_id = $run AND b.run_id = $other
ORDER BY abs(change) DESC, layer, neuron LIMIT $k

-- name: compare_heads
SELECT layer, head, a.mean_abs_effect AS mean_abs_effect_a, b.mean_abs_effect AS mean_abs_effect_b,
       b.mean_abs_effect - a.mean_abs_effect AS change, a.attention_previous AS previous_a, b.attention_previous AS previous_b,
       a.attention_induction AS induction_a, b.attention_induction AS induction_b
FROM head_stats a JOIN head_stats b USING (layer, head) WHERE a.run_id = $run AND b.run_id = $other
ORDER BY abs(change) DESC, layer, head LIMIT $k

-- Next-token neurons ------------------------------------------------------------------------------

-- name: neuron_inputs
SELECT component::VARCHAR AS component, source_layer, source_head, value, reading::VARCHAR AS reading,
       pre_activation, activation, closure, pre_linear, linear_closure
FROM neuron_inputs WHERE position_id = $position_id AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER
ORDER BY neuron_inputs.reading, abs(value) DESC, neuron_inputs.component, source_layer, source_head

-- name: explanations
SELECT e.*, s.* EXCLUDE (explanation_id, run_id, layer, neuron, is_baseline, source_layer, source_head, method, language_model, prompt_version)
FROM explanations e LEFT JOIN explanation_scores s USING (explanation_id)
WHERE e.run_id = $run ORDER BY e.is_baseline, e.layer, e.neuron, e.source_layer, e.source_head, e.explanation_id

-- name: ablations
FROM ablations WHERE run_id = $run ORDER BY is_baseline, layer, neuron, source_layer, source_head

-- Contrasts ---------------------------------------------------------------------------------------

-- name: contrast_accuracy
-- How often the model prefers the answer to the distractor, for each group of documents. The parameter `by` is a key of
-- the metadata, and the documents with the same value of the key form a group. If `by` is NULL, all documents form one
-- group.
SELECT if($by IS NULL, 'all', coalesce(metadata->>$by, '(none)')) AS group_name, count(*) AS documents, count(*) FILTER (is_right) AS right_answers,
       avg(is_right::INTEGER) AS accuracy, avg(logit_difference) AS mean_difference,
       stddev_samp(logit_difference) / sqrt(count(*)) AS standard_error, avg((answer_rank = 1)::INTEGER) AS answer_is_top
FROM contrasts WHERE run_id = $run GROUP BY ALL ORDER BY ALL

-- name: contrast_means_component
-- For each group of contrasts and each component: the number of contrasts, the sum of the component's effects over
-- them, and the standard error of its mean effect. store/contrasts.py divides the sum by the number of documents in the
-- group to get the mean.
SELECT if($by IS NULL, 'all', coalesce(c.metadata->>$by, '(none)')) AS group_name, e.component::VARCHAR AS component, e.layer, NULL::UINTEGER AS unit,
       count(*) AS rows, sum(e.effect) AS total, stddev_samp(e.effect) / sqrt(count(*)) AS standard_error, 0.0 AS limits
FROM contrasts c JOIN contrast_components e USING (run_id, document_id) WHERE c.run_id = $run GROUP BY ALL

-- name: contrast_means_head
-- For each group of contrasts and each head: the number of contrasts, the sum of the head's effects over them, and the
-- standard error of its mean effect. store/contrasts.py divides the sum by the number of documents in the group to get
-- the mean.
SELECT if($by IS NULL, 'all', coalesce(c.metadata->>$by, '(none)')) AS group_name, 'head' AS component, e.layer, e.head::UINTEGER AS unit,
       count(*) AS rows, sum(e.effect) AS total, stddev_samp(e.effect) / sqrt(count(*)) AS standard_error, 0.0 AS limits
FROM contrasts c JOIN contrast_heads e USING (run_id, document_id) WHERE c.run_id = $run GROUP BY ALL

-- name: contrast_means_neuron
-- For each group of contrasts and each neuron: the number of contrasts in which the neuron's effect is stored, the sum
-- of its effects over these, and the standard error of their mean. The neuron's effect in any other contrast has an
-- upper bound, and the column `limits` is the sum of these bounds. store/contrasts.py divides both sums by the number
-- of documents in the group to get the mean and its largest error.
WITH grouped AS (
    SELECT document_id, if($by IS NULL, 'all', coalesce(metadata->>$by, '(none)')) AS group_name FROM contrasts WHERE run_id = $run
), layer AS (
    SELECT g.group_name, l.layer, sum(l.neuron_limit) AS limits
    FROM grouped g JOIN base.contrast_layer l USING (document_id) WHERE l.run_id = $run GROUP BY ALL
), neuron AS (
    SELECT g.group_name, n.layer, n.neuron AS unit, count(*) AS rows, sum(n.effect) AS total, sum(l.neuron_limit) AS limits,
           stddev_samp(n.effect) / sqrt(count(*)) AS standard_error
    FROM grouped g JOIN base.contrast_neuron n USING (document_id) JOIN base.contrast_layer l USING (run_id, document_id, layer)
    WHERE n.run_id = $run GROUP BY ALL
)
SELECT n.group_name, 'neuron' AS component, n.layer, n.unit, n.rows, n.total, n.standard_error, l.limits - n.limits AS limits
FROM neuron n JOIN layer l USING (group_name, layer)

-- Training steps -----------------------------------------------------------------------------------

-- name: series
-- The runs that differ from this run only in the training step of the model: one run per step, the one finished last.
SELECT arg_max(r.run_id, r.finished) AS run_id, r.step, arg_max(r.revision, r.finished) AS revision
FROM runs r JOIN runs c ON r.model = c.model AND r.corpus_id = c.corpus_id AND r.settings::VARCHAR = c.settings::VARCHAR
WHERE c.run_id = $run AND r.status = 'finished' AND r.step IS NOT NULL
GROUP BY r.step ORDER BY r.step

-- name: training_steps
{series}

-- name: emergence
-- One statistic of the model, a head or a neuron at every step.
SELECT s.step, s.revision, s.run_id, e.value, e.count, e.token
FROM ({series}) s LEFT JOIN (
    FROM emergence WHERE statistic = $statistic AND layer IS NOT DISTINCT FROM $layer::UTINYINT
      AND head IS NOT DISTINCT FROM $head::UTINYINT AND neuron IS NOT DISTINCT FROM $neuron::UINTEGER
) e USING (run_id) ORDER BY s.step

-- name: emergence_changes
-- The heads or neurons whose statistic differs most between two runs.
SELECT a.layer, coalesce(a.head, a.neuron) AS unit, a.value AS value_a, b.value AS value_b, b.value - a.value AS change,
       a.token AS token_a, b.token AS token_b
FROM emergence a JOIN emergence b ON a.layer = b.layer AND a.head IS NOT DISTINCT FROM b.head AND a.neuron IS NOT DISTINCT FROM b.neuron
WHERE a.run_id = $run AND b.run_id = $other AND a.statistic = $statistic AND b.statistic = $statistic
  AND (a.head IS NOT NULL) = ($kind = 'head')
ORDER BY abs(change) DESC, a.layer, unit LIMIT $limit

-- name: emergence_changes_total
SELECT count(*) AS total FROM emergence
WHERE run_id = $run AND statistic = $statistic AND layer IS NOT NULL AND (head IS NOT NULL) = ($kind = 'head')

-- name: at_all_steps
-- The predictions at a range of positions of this run at every step. Runs of a series cut the same text into the same
-- windows, so a position has the same index in each of them. `here`: the position_id in this run.
SELECT $first::BIGINT + p.position_id - r.first AS here, r.step, r.run_id, p.position_id, p.token, p.next_token,
       -p.next_logprob AS loss, exp(p.next_logprob) AS probability, p.next_rank, p.top_token
FROM (SELECT *, (run_id - 1) * base.positions_a_run() + $first::BIGINT % base.positions_a_run() AS first FROM ({series})) r
JOIN positions p ON p.run_id = r.run_id AND p.position_id BETWEEN r.first AND r.first + $last::BIGINT - $first::BIGINT
ORDER BY here, r.step
