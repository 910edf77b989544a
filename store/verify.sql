-- The checks of `annotate verify`. Each query checks one condition that holds in a sound store. It returns one row for
-- each problem, with a description in the column `problem`, and no rows if the store is sound.
-- A query with the parameter $run_id runs once for each run, a query with $model_id once for each model, and any other
-- query once for the store. $tolerance is the largest error that is allowed for attention, probabilities and fractions.
-- A sum may have a larger error if it has more or larger terms (closure_bound, base.float_error).

-- Provenance and text -----------------------------------------------------------------------------

-- name: identity
SELECT 'run ' || $run_id || ' has ' || n || ' rows in base.' || kind || '; it must have one' AS problem
FROM (SELECT 'run' AS kind, count(*) AS n FROM base.run WHERE run_id = $run_id
      UNION ALL SELECT 'corpus', count(*) FROM base.corpus WHERE corpus_id IN (SELECT corpus_id FROM base.run WHERE run_id = $run_id))
WHERE n <> 1

-- name: vocabulary
WITH used AS (
    SELECT DISTINCT m.tokenizer_id, unnest([p.token_id, p.next_token_id, p.top_token_id]) AS token_id
    FROM base.position p JOIN base.run r USING (run_id) JOIN base.model m USING (model_id) WHERE p.run_id = $run_id
)
SELECT 'token ' || u.token_id || ' has ' || count(t.token_id) || ' rows in the vocabulary; it must have one' AS problem
FROM used u LEFT JOIN base.token t USING (tokenizer_id, token_id)
WHERE u.token_id IS NOT NULL GROUP BY u.token_id HAVING count(t.token_id) <> 1

-- name: documents once
SELECT 'document ' || d.document_id || ' has ' || count(*) || ' rows; it must have one' AS problem
FROM base.document d JOIN base.run r USING (corpus_id)
WHERE r.run_id = $run_id GROUP BY d.document_id HAVING count(*) <> 1

-- name: documents
SELECT 'document ' || d.document_id || ' (' || d.source || '): its text differs from the annotated text (another sha256)' AS problem
FROM base.document d JOIN base.run r USING (corpus_id)
WHERE r.run_id = $run_id AND sha256(d.text) <> d.sha256

-- name: passages
SELECT 'document ' || d.document_id || ' (' || d.source || '): its passages differ from its text' AS problem
FROM base.document d JOIN base.run r USING (corpus_id) LEFT JOIN (
    SELECT document_id, string_agg(left(text, base.passage_characters()), '' ORDER BY passage_id) AS text,
           bool_and(substring(text, base.passage_characters() + 1) = left(next, base.passage_reach()))
           AND max(passage_id) = base.passage_id(document_id, base.passage_characters() * (count(*) - 1)) AS is_whole
    FROM (SELECT *, base.document_of_passage(passage_id) AS document_id,
                 lead(text, 1, '') OVER (PARTITION BY document_id ORDER BY passage_id) AS next FROM base.passage)
    WHERE document_id IN (SELECT document_id FROM base.document JOIN base.run USING (corpus_id) WHERE run_id = $run_id)
    GROUP BY document_id
) p USING (document_id)
WHERE r.run_id = $run_id AND (d.text IS DISTINCT FROM p.text OR NOT p.is_whole)

-- name: passages of documents
-- Each passage (a piece of a document's text) belongs to a stored document.
SELECT 'passage ' || passage_id || ' belongs to no document' AS problem
FROM base.passage p ANTI JOIN base.document d ON d.document_id = base.document_of_passage(p.passage_id)

-- name: whole corpus
SELECT 'corpus ' || c.corpus_id || ': ' || count(d.document_id) || ' documents with ' || coalesce(sum(length(d.text)), 0)
       || ' characters are stored, but its record says ' || c.documents || ' with ' || c.characters AS problem
FROM base.run r JOIN base.corpus c USING (corpus_id) LEFT JOIN base.document d USING (corpus_id)
WHERE r.run_id = $run_id
GROUP BY c.corpus_id, c.documents, c.characters, r.status, r.settings
HAVING r.status = 'finished'  -- a run whose corpus changed during the ingest is never finished
   AND (count(d.document_id) > c.documents OR coalesce(sum(length(d.text)), 0) > c.characters
        OR (r.settings->>'limit_tokens') IS NULL
           AND (count(d.document_id) < c.documents OR coalesce(sum(length(d.text)), 0) < c.characters))

-- name: cut_document
-- A subquery: the document in whose middle the positions of a part begin (`annotate ingest --part`). The positions
-- before are in another store, so what follows from a document's beginning cannot be checked for it.
(SELECT document_id FROM base.position JOIN base.part USING (run_id)
 WHERE run_id = $run_id AND position_id = first_position_id AND context_cut)

-- name: in_text
SELECT p.*, hex(t.bytes) AS bytes, k.spells
FROM base.position p JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
JOIN base.tokenizer k ON k.tokenizer_id = m.tokenizer_id
WHERE p.run_id = $run_id AND NOT (p.position = 0 AND (r.settings->>'bos')::BOOLEAN AND p.char_start IS NULL)
  AND p.document_id NOT IN {cut_document}

-- name: tokens spell the text
-- The bytes of a document's tokens, joined in order, are equal to the beginning of the document's text. This cannot be
-- checked if the tokenizer changes the text. A tokenizer that only normalises texts to NFC leaves a document unchanged
-- that is already in NFC, so such documents are checked.
SELECT 'document ' || d.document_id || ': its tokens do not spell its text' AS problem
FROM (SELECT document_id, spells, string_agg(bytes, '' ORDER BY position_id) AS bytes FROM ({in_text}) GROUP BY document_id, spells) t
JOIN base.document d USING (document_id)
WHERE NOT starts_with(hex(encode(d.text)), t.bytes) AND (t.spells = 'text' OR t.spells = 'NFC' AND nfc_normalize(d.text) = d.text)

-- name: character spans tile
-- The character spans of a document's tokens cover its text without gaps. Each span begins where the spans before it
-- end, or earlier if they share a character. If the run read the document to its end, the last span ends at the end of
-- the text.
WITH placed AS (
    SELECT position_id, document_id, char_start, char_end,
           coalesce(max(char_end) OVER before, 0) AS reached, coalesce(max(char_start) OVER before, 0) AS begun,
           lead(position_id) OVER (PARTITION BY document_id ORDER BY position_id) IS NULL AS is_last
    FROM ({in_text}) WINDOW before AS (PARTITION BY document_id ORDER BY position_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), finished AS (
    SELECT max(document_id) AS last_document, any_value(r.status) = 'finished' AS is_finished, any_value(r.settings->>'limit_tokens') AS limited
    FROM base.position JOIN base.run r USING (run_id) WHERE run_id = $run_id
)
SELECT 'position ' || p.position_id || ' has characters ' || coalesce(p.char_start || ' to ' || p.char_end, 'NULL') || ' of document '
       || p.document_id || ', but the spans before it reach character ' || reached || ' of ' || coalesce(length(d.text), 0) AS problem
FROM placed p LEFT JOIN base.document d USING (document_id), finished f
WHERE NOT coalesce(p.char_start BETWEEN begun AND reached AND p.char_end >= p.char_start AND p.char_end <= length(d.text), false)
   OR is_last AND p.char_end < length(d.text) AND (p.document_id < last_document OR is_finished AND limited IS NULL)

-- name: character spans
-- The character span of a token has the characters whose first byte is in the token. If the token begins in the middle
-- of a character's bytes, the span has this character, too.
WITH placed AS (
    SELECT position_id, document_id, char_start, char_end, spells, regexp_matches(bytes, '^[89AB]') AS goes_on,
           length(regexp_replace(bytes, '[89AB].|(..)', '\1', 'g')) // 2 AS begun,
           sum(begun) OVER (PARTITION BY document_id ORDER BY position_id) AS stop
    FROM ({in_text})
), text AS (
    SELECT document_id, length(text) AS characters, nfc_normalize(text) = text AS composed FROM base.document
)
SELECT 'position ' || p.position_id || ' has characters ' || coalesce(p.char_start || ' to ' || p.char_end, 'NULL') || ' of document '
       || p.document_id || ', but the bytes of its token give ' || stop - begun - goes_on::INTEGER || ' to ' || stop AS problem
FROM placed p LEFT JOIN text t USING (document_id)
WHERE t.characters IS NULL OR p.char_start < 0 OR p.char_end < p.char_start OR p.char_end > t.characters
   OR (p.spells = 'text' OR p.spells = 'NFC' AND t.composed) AND (p.char_start, p.char_end) IS DISTINCT FROM (stop - begun - goes_on::INTEGER, stop)

-- name: leftovers
SELECT 'run ' || $run_id || ' is finished but still has ' || count(*) || ' rows in base.top_candidate' AS problem
FROM base.top_candidate JOIN base.run USING (run_id) WHERE run_id = $run_id AND status = 'finished' HAVING count(*) > 0

-- name: identity of the model
-- A model has exactly one row in base.model, and its tokenizer has exactly one row in base.tokenizer.
SELECT 'model ' || $model_id || ' has ' || n || ' rows in base.' || kind || '; it must have one' AS problem
FROM (SELECT 'model' AS kind, count(*) AS n FROM base.model WHERE model_id = $model_id
      UNION ALL SELECT 'tokenizer', count(*) FROM base.tokenizer WHERE tokenizer_id IN (SELECT tokenizer_id FROM base.model WHERE model_id = $model_id))
WHERE n <> 1

-- Terms of a prediction ---------------------------------------------------------------------------

-- name: next tokens
SELECT 'position ' || n.position_id || ' (place ' || n.position || ', token ' || n.token_id || ') does not follow position '
       || p.position_id || ' (place ' || p.position || ', next token ' || coalesce(p.next_token_id::VARCHAR, 'none') || ')' AS problem
FROM base.position p
JOIN base.position n ON n.run_id = p.run_id AND n.position_id = p.position_id + 1 AND n.window_id = p.window_id
WHERE p.run_id = $run_id
  AND NOT (p.position = 0 AND p.context_cut AND n.position > 1) -- p is the BOS of a window that repeats tokens of the previous window
  AND (n.position <> p.position + 1 OR p.next_token_id IS DISTINCT FROM n.token_id)

-- name: context cut
SELECT 'position ' || position_id || ' in window ' || window_id || ': its context is recorded as ' || CASE WHEN context_cut THEN 'cut' ELSE 'whole' END
       || ', but its document begins in window ' || first_window AS problem
FROM (SELECT *, min(window_id) OVER (PARTITION BY document_id) AS first_window FROM base.position WHERE run_id = $run_id)
WHERE context_cut <> (window_id > first_window) AND document_id NOT IN {cut_document}

-- name: closure
WITH terms AS (
    SELECT position_id, count(*) AS n, sum(toward_next::DOUBLE) AS next, sum(toward_top::DOUBLE) AS top,
           sum(abs(toward_next::DOUBLE)) AS next_size, sum(abs(toward_top::DOUBLE)) AS top_size
    FROM contributions WHERE run_id = $run_id GROUP BY position_id
), doubtful AS ( -- positions whose closure error (sum of terms − logit) exceeds the bound from whole layers; only for these few is the bound from heads and neurons computed
    SELECT position_id FROM base.position p JOIN terms t USING (position_id)
    WHERE p.run_id = $run_id AND (abs(p.closure_top) > closure_bound(t.n, t.top_size) OR abs(p.closure_next) > closure_bound(t.n, t.next_size))
), sizes AS (
    SELECT position_id, sum(abs(toward_next::DOUBLE)) AS next_size, sum(abs(toward_top::DOUBLE)) AS top_size
    FROM (SELECT run_id, position_id, toward_next, toward_top FROM contributions WHERE component IN ('embed', 'pos_embed', 'final_bias')
          UNION ALL SELECT run_id, position_id, toward_next, toward_top FROM heads
          UNION ALL SELECT run_id, position_id, toward_next, toward_top FROM neurons
          UNION ALL SELECT run_id, position_id, toward_next, toward_top FROM contribution_details WHERE component <> 'mlp_remainder')
    SEMI JOIN doubtful USING (position_id) WHERE run_id = $run_id GROUP BY position_id
)
SELECT 'position ' || p.position_id || ': its terms sum to ' || coalesce(t.next, t.top) || ' (next) and ' || t.top || ' (top), its logits are '
       || coalesce(p.next_logit, p.top_logit) || ' and ' || p.top_logit || ', and the differences are not its closure errors' AS problem
FROM base.position p LEFT JOIN terms t USING (position_id)
WHERE p.run_id = $run_id
  AND (t.top IS NULL
       -- the stored values are summed in float64, so the only rounding is that of the stored closure error
       OR NOT abs(t.top - p.top_logit - p.closure_top) <= base.float_error(p.closure_top) + 1e-12 * (1 + t.top_size)
       OR NOT coalesce(abs(t.next - p.next_logit - p.closure_next) <= base.float_error(p.closure_next) + 1e-12 * (1 + t.next_size),
                       p.next_token_id IS NULL))
UNION ALL
SELECT 'position ' || p.position_id || ': its closure errors ' || coalesce(p.closure_next, p.closure_top) || ' (next) and ' || p.closure_top
       || ' (top) exceed what rounding explains, ' || closure_bound(t.n, coalesce(s.next_size, s.top_size)) || ' and '
       || closure_bound(t.n, s.top_size)
FROM sizes s JOIN terms t USING (position_id) JOIN base.position p ON p.run_id = $run_id AND p.position_id = s.position_id
WHERE abs(p.closure_top) > closure_bound(t.n, s.top_size) OR abs(p.closure_next) > closure_bound(t.n, s.next_size)

-- name: probabilities agree
-- The log-probabilities, the rank and the entropy that are stored for a position agree with the logits that are stored
-- for it.
SELECT 'position ' || p.position_id || ': log-probabilities ' || coalesce(p.next_logprob::VARCHAR, 'NULL') || ' and ' || p.top_logprob
       || ', rank ' || coalesce(p.next_rank::VARCHAR, 'NULL') || ' and entropy ' || p.entropy || ' contradict its logits' AS problem
FROM (SELECT *, $tolerance / 10 + closure_bound(4, abs(top_logit) + abs(top_logprob) + coalesce(abs(next_logit) + abs(next_logprob), 0)) AS error
      FROM base.position WHERE run_id = $run_id) p
JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
WHERE (NOT p.top_logprob <= error OR NOT p.entropy BETWEEN -error AND ln(m.d_vocab) + error
       OR NOT coalesce(abs((p.next_logprob - base.capped(p.next_logit, p.logit_offset, m.logit_cap)) - (p.top_logprob - base.capped(p.top_logit, p.logit_offset, m.logit_cap))) <= error, p.next_token_id IS NULL)
       OR NOT coalesce((p.next_rank = 1) = (p.next_token_id = p.top_token_id) AND p.next_rank BETWEEN 1 AND m.d_vocab, p.next_token_id IS NULL)
       OR p.next_logit > p.top_logit + error OR p.next_rank = 1 AND p.next_logit < p.top_logit - error
       -- the top prediction, and every other token that ranks before the next token,
       -- is at least as likely as the next token
       OR exp(p.top_logprob) + (p.next_rank - 1) * exp(p.next_logprob) > 1 + 10 * error)

-- name: heads add up
WITH heads AS (
    SELECT position_id, layer, count(*) AS n, sum(toward_next::DOUBLE) AS next, sum(toward_top::DOUBLE) AS top,
           sum(abs(toward_next::DOUBLE)) AS next_size, sum(abs(toward_top::DOUBLE)) AS top_size
    FROM heads WHERE run_id = $run_id GROUP BY position_id, layer
)
SELECT 'position ' || l.position_id || ', layer ' || l.layer || ': the sum of heads and bias differs from attn by '
       || coalesce((coalesce(h.top, 0) + b.attn_top - base.logits(l.attn_top))::VARCHAR, 'an unknown amount (rows are missing)') AS problem
FROM base.contribution l
LEFT JOIN heads h USING (position_id, layer)
LEFT JOIN base.bias_effect b USING (run_id, position_id, layer)
WHERE l.run_id = $run_id
  AND (NOT coalesce(abs(h.top + b.attn_top - base.logits(l.attn_top)) <= closure_bound(h.n + 2, h.top_size + abs(b.attn_top)), false)
       OR NOT coalesce(abs(h.next + b.attn_next - base.logits(l.attn_next)) <= closure_bound(h.n + 2, h.next_size + abs(b.attn_next)), l.attn_next IS NULL))

-- name: neurons add up
WITH kept AS (
    SELECT position_id, layer, count(*) AS n, sum(toward_next::DOUBLE) AS next, sum(toward_top::DOUBLE) AS top,
           sum(abs(toward_next::DOUBLE)) AS next_size, sum(abs(toward_top::DOUBLE)) AS top_size
    FROM neurons WHERE run_id = $run_id GROUP BY position_id, layer
)
SELECT 'position ' || l.position_id || ', layer ' || l.layer || ': the sum of neurons, remainder and bias differs from mlp by '
       || coalesce((coalesce(k.top, 0) + base.logits(l.mlp_remainder_top) + b.mlp_top - base.logits(l.mlp_top))::VARCHAR, 'an unknown amount (rows are missing)') AS problem
FROM base.contribution l
LEFT JOIN kept k USING (position_id, layer)
LEFT JOIN base.bias_effect b USING (run_id, position_id, layer)
WHERE l.run_id = $run_id
  AND (NOT coalesce(abs(coalesce(k.top, 0) + base.logits(l.mlp_remainder_top) + b.mlp_top - base.logits(l.mlp_top))
                    <= closure_bound(coalesce(k.n, 0) + 3, coalesce(k.top_size, 0) + l.mlp_remainder_abs_top + abs(base.logits(l.mlp_remainder_top)) + abs(b.mlp_top)), false)
       OR NOT coalesce(abs(coalesce(k.next, 0) + base.logits(l.mlp_remainder_next) + b.mlp_next - base.logits(l.mlp_next))
                       <= closure_bound(coalesce(k.n, 0) + 3, coalesce(k.next_size, 0) + l.mlp_remainder_abs_next + abs(base.logits(l.mlp_remainder_next)) + abs(b.mlp_next)),
                       l.mlp_next IS NULL))

-- name: shard records
WITH counted AS (
    SELECT s.*,
        (SELECT count(*) FROM base.position r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_position,
        (SELECT count(*) FILTER (t.is_special) FROM base.position r JOIN base.run USING (run_id) JOIN base.model m USING (model_id)
         LEFT JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = r.token_id
         WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_special,
        (SELECT count(*) FROM base.contribution r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_layer,
        (SELECT count(*) FROM base.head r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_head,
        (SELECT count(*) FROM base.head_source r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_source,
        (SELECT count(*) FROM base.neuron r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_neuron,
        (SELECT count(*) FROM base.lens r WHERE r.run_id = s.run_id AND r.position_id BETWEEN s.first_position_id AND s.last_position_id) AS n_lens,
        lag(last_position_id) OVER (ORDER BY shard) AS previous,
        row_number() OVER (ORDER BY shard) - 1 + coalesce((SELECT first_shard FROM base.part WHERE run_id = $run_id), 0) AS number
    FROM base.shard s WHERE s.run_id = $run_id
)
SELECT 'shard ' || shard || ': its record has ' || positions || ' positions, ' || special_positions || ' of special tokens, ' || contributions || ' layer, ' || heads
       || ' head, ' || head_sources || ' source, ' || neurons || ' neuron and ' || lens || ' lens rows; the tables have '
       || n_position || ', ' || n_special || ', ' || n_layer || ', ' || n_head || ', ' || n_source || ', ' || n_neuron || ', ' || n_lens AS problem
FROM counted
WHERE (positions, special_positions, contributions, heads, head_sources, neurons, lens)
      IS DISTINCT FROM (n_position, n_special, n_layer, n_head, n_source, n_neuron, n_lens)
   OR positions <> last_position_id - first_position_id + 1 OR shard <> number OR first_position_id <> previous + 1

-- name: shard windows
SELECT 'shard ' || s.shard || ': its record has ' || any_value(s.windows) || ' windows and a largest closure error of ' || any_value(s.worst_closure)
       || '; its positions have ' || count(DISTINCT p.window_id) || ' and ' || max(greatest(abs(p.closure_top), coalesce(abs(p.closure_next), 0))) AS problem
FROM base.shard s
JOIN base.position p ON p.run_id = s.run_id AND p.position_id BETWEEN s.first_position_id AND s.last_position_id
WHERE s.run_id = $run_id GROUP BY s.shard
HAVING count(DISTINCT p.window_id) <> any_value(s.windows)
    OR abs(max(greatest(abs(p.closure_top), coalesce(abs(p.closure_next), 0))) - any_value(s.worst_closure)) > 1e-9

-- name: rows per position
SELECT 'shard ' || s.shard || ' has ' || s.contributions || ' layer, ' || s.heads || ' head and ' || s.lens || ' lens rows for ' || s.positions
       || ' positions, which does not fit the model''s layers and heads' AS problem
FROM base.shard s JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
WHERE s.run_id = $run_id
  AND (s.contributions <> s.positions * m.n_layers OR s.heads <> s.positions * m.n_layers * m.n_heads
       OR s.lens NOT IN (0, s.positions * m.n_layers))

-- name: rows outside shards
-- No row of a run is outside the run's shards (a shard is the part of a run that one transaction wrote). Each row is at
-- a position between the first position of the first shard and the last position of the last shard.
SELECT 'a ' || r.kind || ' row at position ' || r.position_id || ' belongs to no shard' AS problem
FROM (SELECT 'position' AS kind, run_id, position_id FROM base.position
      UNION ALL SELECT 'layer', run_id, position_id FROM base.contribution
      UNION ALL SELECT 'head', run_id, position_id FROM base.head
      UNION ALL SELECT 'source', run_id, position_id FROM base.head_source
      UNION ALL SELECT 'neuron', run_id, position_id FROM base.neuron
      UNION ALL SELECT 'code', run_id, position_id FROM base.neuron_code
      UNION ALL SELECT 'lens', run_id, position_id FROM base.lens) r
WHERE r.run_id = $run_id
  AND r.position_id NOT BETWEEN (SELECT coalesce(min(first_position_id), 0) FROM base.shard WHERE run_id = $run_id)
                            AND (SELECT coalesce(max(last_position_id), -1) FROM base.shard WHERE run_id = $run_id)

-- name: each position once
SELECT 'position ' || position_id || ' has ' || count(*) || ' rows in base.position; it must have one' AS problem
FROM base.position WHERE run_id = $run_id GROUP BY position_id HAVING count(*) <> 1

-- name: each layer once
SELECT 'position ' || l.position_id || ' has ' || count(*) || ' layer rows; it must have one for each of ' || any_value(m.n_layers) || ' layers' AS problem
FROM base.contribution l JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
WHERE l.run_id = $run_id GROUP BY l.position_id
HAVING count(*) <> any_value(m.n_layers) OR count(DISTINCT l.layer) <> any_value(m.n_layers)

-- name: lens once
SELECT 'position ' || l.position_id || ' has ' || count(*) || ' lens rows; it must have one for each of ' || any_value(m.n_layers) || ' layers' AS problem
FROM base.lens l JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
WHERE l.run_id = $run_id GROUP BY l.position_id
HAVING count(*) <> any_value(m.n_layers) OR count(DISTINCT l.layer) <> any_value(m.n_layers)

-- name: biases once
WITH held AS (
    SELECT b.layer, b.token_id, count(*) AS n FROM base.layer_bias b JOIN base.run USING (model_id)
    WHERE run_id = $run_id GROUP BY b.layer, b.token_id
)
SELECT 'layer ' || t.layer || ' has ' || coalesce(h.n, 0) || ' rows in base.layer_bias for token ' || t.token_id || '; it must have one' AS problem
FROM (SELECT unnest(range(m.n_layers)) AS layer, t.token_id
      FROM base.run JOIN base.model m USING (model_id) JOIN base.token t USING (tokenizer_id)
      WHERE run_id = $run_id AND t.token_id < m.d_vocab) t
LEFT JOIN held h USING (layer, token_id)
WHERE coalesce(h.n, 0) <> 1

-- name: heads once
SELECT 'position ' || position_id || ' has ' || count(*) || ' rows for head L' || layer || 'H' || head || '; it must have one' AS problem
FROM base.head WHERE run_id = $run_id GROUP BY position_id, layer, head HAVING count(*) > 1

-- name: neurons once
SELECT 'position ' || position_id || ' has ' || count(*) || ' rows for neuron L' || layer || 'N' || neuron || '; it may have one' AS problem
FROM base.neuron WHERE run_id = $run_id GROUP BY position_id, layer, neuron HAVING count(*) > 1

-- name: codes once
-- A run with --keep-neurons all stores exactly one code for each neuron and position. Usually the code is the neuron's
-- activation in a few bits. If the neuron has a row in base.neuron at the position, the code is the reserved number
-- base.code_of_kept() instead.
WITH asked AS (
    SELECT m.d_mlp FROM base.run r JOIN base.model m USING (model_id)
    WHERE r.run_id = $run_id AND (r.settings->>'keep_neurons') IS NULL
), rows AS (
    SELECT position_id, layer, count(*) AS n FROM base.neuron WHERE run_id = $run_id GROUP BY ALL
), coded AS (
    SELECT position_id, layer, count(*) - count(DISTINCT part) AS twice, sum(len(codes)) AS codes,
           sum(len(list_filter(codes, lambda code: code >= base.code_of_kept()))) AS of_rows
    FROM base.neuron_code WHERE run_id = $run_id GROUP BY ALL
)
SELECT 'position ' || l.position_id || ', layer ' || l.layer || ' has ' || coalesce(c.codes, 0) || ' codes for ' || d_mlp || ' neurons; '
       || coalesce(c.of_rows, 0) || ' codes stand for a row, and it has ' || coalesce(r.n, 0) || ' rows' AS problem
FROM asked, base.contribution l
LEFT JOIN rows r USING (position_id, layer) LEFT JOIN coded c USING (position_id, layer)
WHERE l.run_id = $run_id AND NOT coalesce(c.twice = 0 AND c.codes = d_mlp AND c.of_rows = coalesce(r.n, 0), false)

-- name: sources once
SELECT 'position ' || position_id || ' has ' || count(*) || ' rows for head L' || layer || 'H' || head || ' and source '
       || position_id - source_offset || '; it may have one' AS problem
FROM base.head_source WHERE run_id = $run_id GROUP BY position_id, layer, head, source_offset HAVING count(*) > 1

-- name: sources kept
SELECT 'position ' || position_id || ' has ' || count(*) || ' source rows, more than --keep-sources' AS problem
FROM base.head_source JOIN base.run USING (run_id)
WHERE run_id = $run_id GROUP BY position_id, settings HAVING count(*) > (settings ->> 'keep_sources')::INTEGER
UNION ALL
SELECT 'position ' || s.position_id || ' has a row for the term of head L' || s.layer || 'H' || s.head || ' and source ' || s.source_position_id
       || ', which is smaller than the bound of the terms without a row'
FROM head_sources s JOIN base.position p USING (run_id, position_id)
WHERE s.run_id = $run_id AND greatest(abs(s.toward_top), coalesce(abs(s.toward_next), 0)) < p.source_bound - 0.00021 - base.float_error(p.source_bound)

-- name: attention of sources
-- At each position, the attention of a head to each stored source is at most its attention to the head's top source.
-- The attention probabilities of a head sum to 1, so those of the top source and of any other source sum to at most 1.
-- Both conditions hold up to rounding.
SELECT 'position ' || s.position_id || ', head L' || s.layer || 'H' || s.head || ': the attention to its top source '
       || h.position_id - h.source_offset || ' is ' || h.attention || ', but the attention to source ' || s.position_id - s.source_offset
       || ' is ' || s.attention AS problem
FROM base.head_source s JOIN base.head h USING (run_id, position_id, layer, head)
WHERE s.run_id = $run_id
  AND NOT CASE WHEN s.source_offset = h.source_offset THEN abs(s.attention - h.attention) <= $tolerance
               ELSE s.attention <= h.attention + $tolerance AND s.attention + h.attention <= 1 + 2 * $tolerance END

-- name: sources add up
-- The direct effect of a head at a position is the sum of the terms of all its sources, which are the position itself
-- and the earlier positions of the window. So the terms of the stored sources sum to the direct effect, up to the terms
-- of the other sources. Each of these is at most source_bound in absolute value.
WITH kept AS (
    SELECT position_id, layer, head, count(*) AS n, sum(toward_next::DOUBLE) AS next, sum(toward_top::DOUBLE) AS top,
           sum(greatest(abs(toward_top::DOUBLE), coalesce(abs(toward_next::DOUBLE), 0))) AS size
    FROM head_sources WHERE run_id = $run_id GROUP BY position_id, layer, head
), compared AS (
    SELECT h.*, coalesce(k.next, 0) AS next, coalesce(k.top, 0) AS top,
           (p.position + 1 - coalesce(k.n, 0)) * p.source_bound + 0.00005 * coalesce(k.n, 0) + $tolerance / 10
           + closure_bound(p.position + 2, coalesce(k.size, 0) + greatest(abs(h.toward_top), coalesce(abs(h.toward_next), 0))) AS most
    FROM heads h JOIN base.position p USING (run_id, position_id) LEFT JOIN kept k USING (position_id, layer, head)
    WHERE h.run_id = $run_id
)
SELECT 'position ' || position_id || ', head L' || layer || 'H' || head || ': its direct effects are ' || coalesce(toward_next, toward_top) || ' (next) and ' || toward_top
       || ' (top), but its stored sources sum to ' || coalesce(next, top) || ' and ' || top || ', and the other sources to at most ' || most AS problem
FROM compared
WHERE NOT abs(toward_top - top) <= most OR NOT coalesce(abs(toward_next - next) <= most, toward_next IS NULL)

-- name: last lens
-- After the last layer, the logit lens gives the same log-probabilities and the same rank of the next token as the
-- prediction. It computes the final scale σ again, with other rounding, so tokens with nearly equal logits may change
-- their order.
SELECT 'position ' || l.position_id || ': the lens after the last layer has log-probabilities ' || l.top_logprob || ' and '
       || coalesce(l.next_logprob || ' (rank ' || l.next_rank || ')', 'NULL') || ', but the prediction has ' || p.top_logprob || ' and '
       || coalesce(p.next_logprob || ' (rank ' || p.next_rank || ')', 'NULL') AS problem
FROM base.lens l
JOIN (SELECT *, $tolerance / 10 + closure_bound(4, abs(top_logit) + abs(top_logprob) + coalesce(abs(next_logit) + abs(next_logprob), 0)) AS error
      FROM base.position WHERE run_id = $run_id) p USING (run_id, position_id)
JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
WHERE l.run_id = $run_id AND l.layer = m.n_layers - 1
  AND (NOT abs(l.top_logprob - p.top_logprob) <= error
       OR NOT coalesce(abs(l.next_logprob - p.next_logprob) <= error
                       AND abs(l.next_rank - p.next_rank) <= 1 + p.next_rank / 1000, p.next_token_id IS NULL))

-- name: neurons kept
-- In each layer, a position has three bounds in base.contribution: for activations, for direct effects on the next
-- token, and for direct effects on the top prediction. Let k be the run's setting keep_neurons. For each bound, at
-- least k stored neurons have a value that reaches it, and at most k have a value that exceeds it. Values are compared
-- without sign and up to the rounding of stored values and bounds.
WITH asked AS (
    SELECT (settings->>'keep_neurons')::BIGINT AS k FROM base.run WHERE run_id = $run_id
), counted AS (
    SELECT l.position_id, l.layer,
           [count(*) FILTER (abs(n.activation) >= l.activation_bound - 0.002 - base.float_error(l.activation_bound)),
            count(*) FILTER (coalesce(abs(n.toward_next) >= l.next_bound - 0.002 - base.float_error(l.next_bound), true)),
            count(*) FILTER (abs(n.toward_top) >= l.top_bound - 0.002 - base.float_error(l.top_bound))] AS reach,
           [count(*) FILTER (abs(n.activation) > l.activation_bound + 0.00051 + base.float_error(l.activation_bound)),
            count(*) FILTER (abs(n.toward_next) > l.next_bound + 0.00051 + base.float_error(l.next_bound)),
            count(*) FILTER (abs(n.toward_top) > l.top_bound + 0.00051 + base.float_error(l.top_bound))] AS exceed
    FROM base.contribution l LEFT JOIN base.neuron n USING (run_id, position_id, layer)
    WHERE l.run_id = $run_id GROUP BY l.position_id, l.layer
)
SELECT 'position ' || position_id || ', layer ' || layer || ': by activation, next and top, ' || array_to_string(reach, ', ')
       || ' of its neurons reach the bounds and ' || array_to_string(exceed, ', ') || ' exceed them; at least ' || k || ' must reach and at most '
       || k || ' exceed each bound' AS problem
FROM counted, asked WHERE k > 0 AND (list_min(reach) < k OR list_max(exceed) > k)

-- name: sources in their document
-- Each source of a head is in the same document as the position at which the head reads from it.
SELECT 'position ' || h.position_id || ': the source ' || h.position_id - h.source_offset || ' of head L' || h.layer || 'H' || h.head
       || ' is not in the position''s document' AS problem
FROM (SELECT position_id, layer, head, source_offset FROM base.head_source WHERE run_id = $run_id
      UNION ALL SELECT position_id, layer, head, source_offset FROM base.head WHERE run_id = $run_id) h
JOIN (SELECT position_id, position_id - min(position_id) OVER (PARTITION BY document_id) AS reach
      FROM base.position WHERE run_id = $run_id AND document_id NOT IN {cut_document}) p USING (position_id)
WHERE h.source_offset > p.reach

-- name: part of a run
-- The shards and positions of a part lie in the range recorded in base.part.
SELECT 'part ' || p.part || ' of ' || p.parts || ' has shards ' || s.first_shard || ' to ' || s.last_shard || ' at positions ' || s.first_id || ' to ' || s.last_id
       || '; its record says ' || p.first_shard || ' to ' || p.last_shard || ' at positions ' || p.first_position_id || ' to ' || p.last_position_id AS problem
FROM base.part p, (SELECT min(shard) AS first_shard, max(shard) AS last_shard, min(first_position_id) AS first_id, max(last_position_id) AS last_id
                   FROM base.shard WHERE run_id = $run_id) s
WHERE p.run_id = $run_id
  AND (s.first_shard <> p.first_shard OR s.first_id <> p.first_position_id OR s.last_shard > p.last_shard
       OR (s.last_shard = p.last_shard) <> (s.last_id = p.last_position_id))

-- Neurons and heads over a run --------------------------------------------------------------------

-- name: lists in order
WITH entry AS (
    SELECT *, CASE WHEN list = 'low' THEN value ELSE -value END AS key,
           lag(CASE WHEN list = 'low' THEN value ELSE -value END) OVER of_list AS before,
           lag(position_id) OVER of_list AS position_before,
           row_number() OVER of_list AS place
    FROM base.top_entry WHERE run_id = $run_id
    WINDOW of_list AS (PARTITION BY kind, list, layer, unit ORDER BY rank)
)
SELECT kind || ' list ' || list || ', layer ' || layer || ' unit ' || unit || ', rank ' || rank || ': value ' || value || ' is out of order' AS problem
FROM entry WHERE place <> rank OR key < before OR (key = before AND position_id <= position_before)

-- name: lists complete
WITH run AS (
    SELECT r.list_size, r.status, (r.settings ->> 'first_in_lists')::BOOLEAN AS first_too, m.*
    FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run_id
), eligible AS (
    SELECT count(*) AS neuron, count(next_token_id) AS head, count(DISTINCT window_id) AS "window"
    FROM base.position ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id), run
    WHERE run_id = $run_id AND (position > 0 OR first_too)
), wanted AS (
    SELECT kind, list, CASE WHEN list = 'window' THEN eligible."window" WHEN kind = 'head' THEN eligible.head ELSE eligible.neuron END AS n,
           run.n_layers * CASE WHEN kind = 'head' THEN run.n_heads ELSE run.d_mlp END AS lists
    FROM run, eligible, (VALUES ('neuron', 'high'), ('neuron', 'low'), ('neuron', 'window'), ('head', 'high'), ('head', 'low')) k(kind, list)
), found AS (
    SELECT kind::VARCHAR AS kind, list::VARCHAR AS list, count(*) AS n FROM base.top_entry WHERE run_id = $run_id GROUP BY ALL
)
SELECT 'the ' || kind || ' lists ' || list || ' have ' || coalesce(found.n, 0) || ' entries; they must have ' || coalesce(lists * least(wanted.n, list_size), 0) AS problem
FROM wanted FULL JOIN found USING (kind, list), run
WHERE status = 'finished' AND coalesce(found.n, 0) <> coalesce(lists * least(wanted.n, list_size), 0)

-- name: lists leave out special tokens
-- If a run excludes special tokens from its top-k lists, no entry of these lists is at a position with a special token.
SELECT kind || ' list ' || list || ', layer ' || layer || ' unit ' || unit || ', rank ' || rank || ': position ' || position_id || ' has a special token, which this run''s lists exclude' AS problem
FROM base.top_entry SEMI JOIN base.left_out USING (run_id, position_id) WHERE run_id = $run_id

-- name: lists against rows
WITH entry AS (
    SELECT * FROM base.top_entry
    WHERE run_id = $run_id AND kind = 'neuron'
), stored AS (
    SELECT e.*, n.activation, l.activation_bound, c.low + c.step * c.codes[e.unit % base.neurons_a_part() + 1] AS coded, c.step
    FROM entry e
    LEFT JOIN base.neuron n ON n.run_id = $run_id AND n.position_id = e.position_id AND n.layer = e.layer AND n.neuron = e.unit
    LEFT JOIN base.contribution l ON l.run_id = $run_id AND l.position_id = e.position_id AND l.layer = e.layer
    LEFT JOIN base.neuron_code c ON c.run_id = $run_id AND c.position_id = e.position_id AND c.layer = e.layer AND c.part = e.unit // base.neurons_a_part()
)
SELECT 'neuron list ' || list || ', layer ' || layer || ' neuron ' || unit || ', rank ' || rank || ' at position ' || position_id
       || ': value ' || value || ', but the stored activation is ' || coalesce(activation::VARCHAR, coded::VARCHAR, 'not there (at most ' || activation_bound || ')') AS problem
FROM stored
WHERE CASE WHEN activation IS NOT NULL THEN abs(value - activation) > 0.00051 + base.float_error(value)
           WHEN coded IS NOT NULL THEN abs(value - coded) > 0.501 * step + 0.00001 + base.float_error(value)
           ELSE coalesce(abs(value) > activation_bound + 0.00051 + base.float_error(value), true) END

-- name: rows against lists
WITH border AS (
    SELECT layer, unit, max(value) FILTER (rank = list_size AND kind = 'neuron' AND list = 'high') AS high,
           max(value) FILTER (rank = list_size AND kind = 'neuron' AND list = 'low') AS low
    FROM base.top_entry JOIN base.run USING (run_id)
    WHERE run_id = $run_id AND kind = 'neuron' AND list IN ('high', 'low') GROUP BY layer, unit
)
SELECT 'neuron L' || n.layer || 'N' || n.neuron || ' at position ' || n.position_id || ': activation ' || n.activation || ' is missing from the neuron''s list' AS problem
FROM base.neuron n
JOIN border b ON b.layer = n.layer AND b.unit = n.neuron
JOIN base.position p ON p.run_id = $run_id AND p.position_id = n.position_id
JOIN base.run r ON r.run_id = $run_id
ANTI JOIN (SELECT * FROM base.top_entry WHERE run_id = $run_id) e
  ON e.layer = n.layer AND e.unit = n.neuron AND e.position_id = n.position_id AND e.kind = 'neuron' AND e.list IN ('high', 'low')
ANTI JOIN (SELECT * FROM base.left_out WHERE run_id = $run_id) x ON x.position_id = n.position_id
WHERE n.run_id = $run_id AND (n.activation > b.high + 0.00051 + base.float_error(b.high) OR n.activation < b.low - 0.00051 - base.float_error(b.low))
  AND (p.position > 0 OR (r.settings ->> 'first_in_lists')::BOOLEAN)

-- name: head lists against rows
-- The top-k lists of a head agree with the head's rows. No row with a value beyond the last entry of a list is missing
-- from the list, and each entry has the value of the head's row at its position.
WITH entry AS (
    SELECT * FROM base.top_entry WHERE run_id = $run_id AND kind = 'head'
), border AS (
    SELECT layer, unit, list, CASE list WHEN 'high' THEN min(value) ELSE max(value) END AS value, max(rank) AS n
    FROM entry GROUP BY layer, unit, list
), beyond AS (
    SELECT b.layer, b.unit, b.list, any_value(b.n) AS n,
           count(*) FILTER (CASE b.list WHEN 'high' THEN h.toward_next > b.value ELSE h.toward_next < b.value END) AS n_beyond
    FROM heads h
    JOIN base.position p ON p.run_id = $run_id AND p.position_id = h.position_id
    JOIN base.run r ON r.run_id = $run_id
    JOIN border b ON b.layer = h.layer AND b.unit = h.head
    ANTI JOIN (SELECT * FROM base.left_out WHERE run_id = $run_id) x ON x.position_id = h.position_id
    WHERE h.run_id = $run_id AND (p.position > 0 OR (r.settings ->> 'first_in_lists')::BOOLEAN)
    GROUP BY b.layer, b.unit, b.list
)
SELECT 'head list ' || list || ', layer ' || layer || ' head ' || unit || ': ' || n_beyond || ' rows are beyond the last of its ' || n || ' entries' AS problem
FROM beyond WHERE n_beyond >= n
UNION ALL
SELECT 'head list ' || e.list || ', layer ' || e.layer || ' head ' || e.unit || ', rank ' || e.rank || ' at position ' || e.position_id || ': value ' || e.value || ', but the head''s row has ' || coalesce(h.toward_next::VARCHAR, 'none')
FROM entry e
LEFT JOIN heads h ON h.run_id = $run_id AND h.position_id = e.position_id AND h.layer = e.layer AND h.head = e.unit
WHERE h.toward_next IS DISTINCT FROM e.value

-- name: head lists' sources
-- Compare two tables that store a head's top source. For each position in a head's top-k lists, base.top_source has the
-- same source and the same attention as base.head. base.top_source has no other rows.
WITH entry AS (
    SELECT DISTINCT layer, unit AS head, position_id, run_id FROM base.top_entry JOIN base.run USING (run_id)
    WHERE run_id = $run_id AND status = 'finished' AND kind = 'head'
), wanted AS (
    SELECT e.layer, e.head, e.position_id, h.source_offset, h.attention
    FROM entry e LEFT JOIN base.head h USING (run_id, layer, head, position_id)
), found AS (
    SELECT layer, head, position_id, source_offset, attention FROM base.top_source WHERE run_id = $run_id
)
SELECT 'head L' || layer || 'H' || head || ' at position ' || position_id || ': the source recorded for its lists differs from the source in its row' AS problem
FROM ((FROM wanted EXCEPT ALL FROM found) UNION ALL (FROM found EXCEPT ALL FROM wanted))

-- name: heads' distances
WITH wanted AS (
    SELECT h.layer, h.head, h.source_offset, count(*) AS positions, sum(h.attention) AS attention,
           count(h.toward_next) AS effects, sum(h.toward_next) AS effect
    FROM base.head h ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id)
    WHERE h.run_id = $run_id AND (SELECT status = 'finished' FROM base.run WHERE run_id = $run_id)
    GROUP BY h.layer, h.head, h.source_offset
), found AS (
    SELECT layer, head, source_offset, sum(positions)::BIGINT AS positions, sum(attention) AS attention,
           sum(effects)::BIGINT AS effects, sum(effect) AS effect
    FROM base.head_offset WHERE run_id = $run_id GROUP BY layer, head, source_offset
)
SELECT 'head L' || layer || 'H' || head || ' at distance ' || source_offset || ': the recorded sums differ from the sums of its rows' AS problem
FROM wanted w FULL JOIN found f USING (layer, head, source_offset)
WHERE (w.positions, w.attention, w.effects, w.effect) IS DISTINCT FROM (f.positions, f.attention, f.effects, f.effect)

-- name: statistics complete
-- In base.unit_stat, each neuron and each head of the model has exactly one row. In base.attention_stat, each head has
-- exactly one row for each attention behaviour, such as attention to the previous token.
WITH model AS (
    SELECT m.* FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run_id
), layers AS (
    SELECT unnest(range(n_layers)) AS layer, d_mlp, n_heads FROM model
), wanted AS (
    SELECT 'neuron'::unit_kind AS kind, layer, unnest(range(d_mlp)) AS unit FROM layers
    UNION ALL
    SELECT 'head', layer, unnest(range(n_heads)) FROM layers
), found AS (
    SELECT kind, layer, unit, count(*) AS n FROM base.unit_stat WHERE run_id = $run_id GROUP BY ALL
), behaviours AS (
    SELECT layer, head AS unit, count(*) AS n, count(DISTINCT behaviour) AS kinds
    FROM base.attention_stat WHERE run_id = $run_id GROUP BY ALL
)
SELECT kind || ' ' || base.unit_name(kind, layer, unit) || ' has '
       || coalesce(found.n, 0) || ' rows of statistics; each unit of the model, and no other, must have one' AS problem
FROM wanted FULL JOIN found USING (kind, layer, unit)
WHERE found.n IS DISTINCT FROM 1 OR wanted.unit IS NULL
UNION ALL
SELECT 'head L' || w.layer || 'H' || w.unit || ' has ' || coalesce(b.n, 0) || ' attention statistics; it must have one for each of ' || behaviours || ' behaviours'
FROM wanted w LEFT JOIN behaviours b USING (layer, unit), (SELECT len(enum_range(NULL::attention_behaviour)) AS behaviours)
WHERE w.kind = 'head' AND (coalesce(b.n, 0) <> behaviours OR b.kinds <> behaviours)

-- name: statistics against lists
-- No value in a neuron's top-k lists is above the neuron's maximum or below its minimum over the run. To check this,
-- the first entry of each list is enough: it is the largest or the smallest of the list.
SELECT 'neuron L' || s.layer || 'N' || s.unit || ': its list has the value ' || e.value || ', which is beyond its '
       || CASE e.list WHEN 'high' THEN 'maximum ' || s.maximum ELSE 'minimum ' || s.minimum END AS problem
FROM base.top_entry e
JOIN base.unit_stat s ON s.run_id = e.run_id AND s.kind = 'neuron' AND s.layer = e.layer AND s.unit = e.unit
WHERE e.run_id = $run_id AND e.rank = 1
  AND (e.kind = 'neuron' AND e.list = 'high' AND s.maximum < e.value OR e.kind = 'neuron' AND e.list = 'low' AND s.minimum > e.value)

-- name: statistics
WITH run AS (
    SELECT count(*) AS positions, count(next_token_id) AS following
    FROM base.position ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id) WHERE run_id = $run_id
), heads AS (
    SELECT layer, head, count(toward_next) AS n, sum(toward_next::DOUBLE * base.steps_a_value()) AS total, min(toward_next) AS low, max(toward_next) AS high,
           count(*) FILTER (toward_next > 0) AS positive
    FROM heads ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id) WHERE run_id = $run_id GROUP BY layer, head
)
SELECT s.kind || ' ' || base.unit_name(s.kind, s.layer, s.unit) || ': its statistics differ from its rows' AS problem
FROM base.unit_stat s LEFT JOIN heads h ON s.kind = 'head' AND h.layer = s.layer AND h.head = s.unit, run
WHERE s.run_id = $run_id
  AND (s.count <> CASE WHEN s.kind = 'head' THEN following ELSE positions END
       OR list_sum(s.histogram) <> s.count OR s.positive > s.count
       OR s.kind = 'head' AND (s.count <> coalesce(h.n, 0) OR s.positive <> coalesce(h.positive, 0)
                         OR (s.count > 0 AND (s.minimum <> h.low OR s.maximum <> h.high
                             OR s.total <> h.total::HUGEINT)))) -- the sums are exact, because they count whole steps

-- name: head histograms
-- For each bin of a head's histogram, the stored count equals the number of the head's rows whose direct effect on the
-- next token is in the bin. A value on the edge between two bins is in the bin farther from zero. Positions that the
-- run excludes as special tokens are not counted.
WITH effect AS MATERIALIZED (
    SELECT layer, head, toward_next::DOUBLE AS value
    FROM heads ANTI JOIN (FROM base.left_out WHERE run_id = $run_id) USING (position_id)
    WHERE run_id = $run_id AND toward_next IS NOT NULL
), edge AS (
    SELECT bin, coalesce(low, '-infinity'::DOUBLE) AS low FROM histogram_bins
), found AS (
    SELECT layer, head, bin, count(*) AS n FROM effect ASOF JOIN edge ON value >= low WHERE value >= 0 GROUP BY ALL
    UNION ALL
    SELECT layer, head, bin, count(*) AS n FROM effect ASOF JOIN edge ON value > low WHERE value < 0 GROUP BY ALL
), recorded AS (
    SELECT layer, unit AS head, unnest(histogram) AS n, generate_subscripts(histogram, 1) AS bin
    FROM base.unit_stat WHERE run_id = $run_id AND kind = 'head'
)
SELECT 'head L' || layer || 'H' || head || ': bin ' || bin || ' of its histogram counts ' || coalesce(r.n, 0)
       || ' positions, but ' || coalesce(f.n, 0) || ' of its rows are in it' AS problem
FROM (FROM recorded WHERE n > 0) r FULL JOIN found f USING (layer, head, bin) WHERE r.n IS DISTINCT FROM f.n

-- name: samples
WITH run AS (
    SELECT r.samples, r.status, m.n_layers * m.d_mlp AS neurons, m.n_layers * m.n_heads AS heads
    FROM base.run r JOIN base.model m USING (model_id) WHERE r.run_id = $run_id
), sampled AS (
    SELECT position_id FROM base.sample_position WHERE run_id = $run_id
), found AS (
    SELECT s.position_id, count(v.unit) FILTER (v.kind = 'neuron') AS neurons, count(v.unit) FILTER (v.kind = 'head') AS heads
    FROM sampled s
    LEFT JOIN (SELECT * FROM base.sample WHERE run_id = $run_id) v USING (position_id)
    GROUP BY s.position_id
)
SELECT 'sampled position ' || position_id || ' has values of ' || f.neurons || ' neurons and ' || f.heads || ' heads; the model has ' || run.neurons || ' and ' || run.heads AS problem
FROM found f, run WHERE f.neurons <> run.neurons OR f.heads <> run.heads
UNION ALL
SELECT 'the sample has ' || (SELECT count(*) FROM sampled) || ' positions; it must have ' || samples || ', or all positions of a smaller run' FROM run
WHERE (SELECT count(*) FROM sampled) > run.samples
   OR status = 'finished' AND (SELECT count(*) FROM sampled) < least(run.samples, (SELECT count(*) FROM base.position WHERE run_id = $run_id)
                                                                            - (SELECT count(*) FROM base.left_out WHERE run_id = $run_id))
UNION ALL
SELECT 'position ' || position_id || ' of the sample has a special token, which this run''s sample excludes' FROM sampled
WHERE position_id IN (SELECT position_id FROM base.left_out WHERE run_id = $run_id)
UNION ALL
SELECT DISTINCT 'position ' || position_id || ' has sampled values but is not in the sample' FROM base.sample_row
WHERE run_id = $run_id AND position_id NOT IN (SELECT position_id FROM sampled)

-- name: head samples against rows
-- In the random sample, the value of a head at a position equals the head's direct effect on the next token in the view
-- `heads`, up to rounding.
SELECT 'head L' || v.layer || 'H' || v.unit || ' at sampled position ' || v.position_id || ': value '
       || coalesce(v.value::VARCHAR, 'NULL') || ', but the head''s row has ' || coalesce(h.toward_next::VARCHAR, 'NULL') AS problem
FROM base.sample v
JOIN heads h ON h.run_id = v.run_id AND h.position_id = v.position_id AND h.layer = v.layer AND h.head = v.unit
WHERE v.run_id = $run_id AND v.kind = 'head'
  AND ((v.value IS NULL) <> (h.toward_next IS NULL) OR abs(v.value - h.toward_next) > 0.00051 + base.float_error(h.toward_next))

-- name: neuron samples against rows
-- In the random sample, the value of a neuron at a position equals the activation in base.neuron, up to rounding. This
-- is checked at the positions at which the neuron has a row.
SELECT 'neuron L' || v.layer || 'N' || v.unit || ' at sampled position ' || v.position_id || ': value '
       || coalesce(v.value::VARCHAR, 'NULL') || ', but the neuron''s row has ' || n.activation AS problem
FROM base.sample v
JOIN base.neuron n ON n.run_id = v.run_id AND n.position_id = v.position_id AND n.layer = v.layer AND n.neuron = v.unit
WHERE v.run_id = $run_id AND v.kind = 'neuron' AND (v.value IS NULL OR abs(v.value - n.activation) > 0.0011 + base.float_error(n.activation))

-- Weights -----------------------------------------------------------------------------------------

-- name: vocabulary of the weights
-- Each token in the tables that `annotate weights` fills has exactly one row in base.token for the model's tokenizer.
WITH used AS (
    SELECT unnest([token_id, next_token_id]) AS token_id FROM base.direct_path WHERE model_id = $model_id
    UNION SELECT token_id FROM base.neuron_vocabulary WHERE model_id = $model_id
    UNION SELECT unnest([source, output]) FROM base.head_vocabulary WHERE model_id = $model_id
    UNION SELECT unnest([source, destination]) FROM base.head_pair WHERE model_id = $model_id
    UNION SELECT unnest([source, destination, output]) FROM base.skip_trigram WHERE model_id = $model_id
), token AS (
    SELECT token_id FROM base.token WHERE tokenizer_id IN (SELECT tokenizer_id FROM base.model WHERE model_id = $model_id)
)
SELECT 'token ' || u.token_id || ' has ' || count(t.token_id) || ' rows in the vocabulary; it must have one' AS problem
FROM used u LEFT JOIN token t USING (token_id) GROUP BY u.token_id HAVING count(t.token_id) <> 1

-- name: entries
-- One row for each entry of each list that was computed from the weights of a model. value: the number by which the
-- list is sorted, so that it never increases from rank to rank; NULL if the list is not sorted by a number.
SELECT model_id, 'weights' AS list, NULL::INTEGER AS layer, NULL::INTEGER AS unit, NULL::INTEGER AS token, 1 AS rank, NULL::FLOAT AS value FROM base.weights
UNION ALL SELECT model_id, 'neuron_weight', layer, neuron, NULL, 1, NULL FROM base.neuron_weight
UNION ALL SELECT model_id, 'neuron_vocabulary ' || direction, layer, neuron, NULL, rank, CASE direction WHEN 'promotes' THEN congruence ELSE -congruence END FROM base.neuron_vocabulary
UNION ALL SELECT model_id, concat_ws(' ', 'neuron_read', component, reading), layer, neuron, NULL, rank, abs(weight) FROM neuron_reads
UNION ALL SELECT model_id, 'direct_path', NULL, NULL, token_id, rank, logprob FROM base.direct_path
UNION ALL SELECT model_id, 'head_weight', layer, head, NULL, 1, NULL FROM base.head_weight
UNION ALL SELECT model_id, 'head_distance', layer, head, NULL, distance + 1, NULL FROM base.head_distance
UNION ALL SELECT model_id, 'head_vocabulary', layer, head, source, rank, effect FROM base.head_vocabulary
UNION ALL SELECT model_id, 'head_pair', layer, head, NULL, rank, attention FROM base.head_pair
UNION ALL SELECT model_id, 'skip_trigram', layer, head, NULL, rank, strength FROM base.skip_trigram
UNION ALL SELECT c.model_id, 'head_composition ' || c.kind, c.layer, c.head, NULL, c.earlier_layer * m.n_heads + c.earlier_head + 1, NULL
FROM base.head_composition c JOIN base.model m USING (model_id)

-- name: lists of the weights
-- Each list that was computed from the weights of a model has the expected number of entries: the requested number or,
-- if fewer entries are possible, all of them. The ranks in a list are 1, 2, 3 and so on.
WITH model AS (
    SELECT m.*, w.top FROM base.model m JOIN base.weights w USING (model_id) WHERE m.model_id = $model_id
), neuron AS (
    SELECT layer, unit, top, layer + (NOT parallel_residual)::INTEGER AS layers_of_heads, n_heads, d_mlp
    FROM model, range(n_layers) l(layer), range(d_mlp) n(unit)
), head AS (
    SELECT layer, unit, top, n_heads FROM model, range(n_layers) l(layer), range(n_heads) h(unit)
), reading AS (
    SELECT reading FROM model, unnest(enum_range(NULL::reading)) r(reading) WHERE reading = 'pre' OR is_gated
), source AS (
    SELECT DISTINCT source FROM base.head_vocabulary WHERE model_id = $model_id
), wanted AS (
    SELECT 'weights' AS list, NULL AS layer, NULL AS unit, NULL AS token, 1 AS size FROM model
    UNION ALL SELECT 'neuron_weight', layer, unit, NULL, 1 FROM neuron
    UNION ALL SELECT 'neuron_vocabulary ' || direction, layer, unit, NULL, top FROM neuron, unnest(enum_range(NULL::direction)) d(direction)
    UNION ALL SELECT 'neuron_read head ' || reading, layer, unit, NULL, least(top, layers_of_heads * n_heads) FROM neuron, reading
    UNION ALL SELECT 'neuron_read neuron ' || reading, layer, unit, NULL, least(top, layer * d_mlp) FROM neuron, reading
    UNION ALL SELECT 'direct_path', NULL, NULL, token_id, top FROM base.token JOIN model USING (tokenizer_id) WHERE token_id < d_vocab
    UNION ALL SELECT 'head_weight', layer, unit, NULL, 1 FROM head
    UNION ALL SELECT 'head_distance', layer, unit, NULL, (SELECT max(distance) + 1 FROM base.head_distance WHERE model_id = $model_id) FROM head
    UNION ALL SELECT 'head_vocabulary', layer, unit, source, top FROM head, source
    UNION ALL SELECT 'head_pair', layer, unit, NULL, least(top, (SELECT count(*) * count(*) FROM source)) FROM head
    UNION ALL SELECT 'skip_trigram', layer, unit, NULL, top FROM head
    UNION ALL SELECT 'head_composition ' || kind, layer, unit, NULL, layer * n_heads FROM head, unnest(enum_range(NULL::composition_kind)) k(kind)
), compared AS (
    SELECT *, 0 AS held, true AS in_order FROM wanted
    UNION ALL
    SELECT list, layer, unit, token, 0, count(*), count(DISTINCT rank) = count(*) AND max(rank) = count(*)
    FROM ({entries}) WHERE model_id = $model_id GROUP BY list, layer, unit, token
)
SELECT concat_ws(', ', list, 'layer ' || layer, 'unit ' || unit, 'token ' || token) || ' has ' || sum(held) || ' rows; it must have ' || sum(size) || ', with ranks from 1' AS problem
FROM compared GROUP BY list, layer, unit, token HAVING sum(held) <> sum(size) OR NOT bool_and(in_order)

-- name: lists of the weights in order
-- Each list that was computed from the weights of a model is sorted: the value of an entry (see the query `entries`) is
-- at most the value of the entry before it.
SELECT concat_ws(', ', list, 'layer ' || layer, 'unit ' || unit, 'token ' || token) || ' is out of order at rank ' || rank AS problem
FROM ({entries}) WHERE model_id = $model_id
QUALIFY value > lag(value) OVER (PARTITION BY list, layer, unit, token ORDER BY rank)

-- name: scores of heads
-- The scores that were computed from the weights of heads are possible values, such as a probability from 0 to 1. The
-- strength of a skip-trigram equals the product of its attention and the head's effect on the output token.
WITH told AS (
    SELECT model_id, layer, head, 'one of its scores' AS what FROM base.head_weight
    WHERE greatest(abs(copying), abs(matching), random_self, random_previous, random_first, random_duplicate, random_induction) > 1.001
       OR least(random_self, random_previous, random_first, random_duplicate, random_induction, random_entropy, copying_rank - 1) < 0
       OR least(ov_norm, qk_norm) <= 0 OR copying * copying_z < 0 OR matching * matching_z < 0
    UNION ALL
    -- z is 0 where score² equals its mean under the null distribution;
    -- close to that mean, float32 does not determine the sign of z
    SELECT model_id, layer, head, 'head_composition ' || kind FROM base.head_composition c LEFT JOIN base.weights w USING (model_id)
    WHERE score NOT BETWEEN 0 AND 1.001 OR p NOT BETWEEN 0 AND 1
       OR (abs(score * score * dimensions - 1) > 1e-4 AND (score * score * dimensions - 1) * z < 0)
    UNION ALL
    SELECT model_id, layer, head, 'pair ' || rank FROM base.head_pair WHERE attention NOT BETWEEN 0 AND 1.001
    UNION ALL
    SELECT t.model_id, t.layer, t.head, 'skip-trigram ' || t.rank
    FROM base.skip_trigram t LEFT JOIN base.head_vocabulary o USING (model_id, layer, head, source, output)
    WHERE NOT coalesce(abs(t.strength - t.attention * o.effect) <= 1e-4 * abs(t.strength) + 1e-6, false)
)
SELECT 'head L' || layer || 'H' || head || ': ' || what || ' has an impossible value' AS problem
FROM told WHERE model_id = $model_id

-- name: bigrams against rows
-- If a run has numbers of bigrams in base.bigram_agreement and base.bigram_distance, they equal the numbers that are
-- counted again in the stored positions of the run.
WITH counted AS (
    SELECT token_id, next_token_id, count(*) AS count
    FROM base.position ANTI JOIN base.left_out USING (run_id, position_id)
    WHERE run_id = $run_id AND next_token_id IS NOT NULL GROUP BY ALL
), wanted AS (
    SELECT 'bigrams of token ' || token_id AS what, 1 AS entries, sum(count) AS positions, count(*) AS bigrams
    FROM counted GROUP BY token_id
    UNION ALL
    SELECT 'bigrams in the range that begins at ' || (2 ** floor(log2(count)))::BIGINT || ' times', 1, 0, count(*) FROM counted GROUP BY ALL
    UNION ALL
    SELECT 'bigrams in the range that begins at 0 times', 1, 0, count(DISTINCT token_id) * count(DISTINCT next_token_id) - count(*) AS absent
    FROM counted HAVING absent > 0
), held AS (
    SELECT 'bigrams of token ' || token_id AS what, count(*) AS entries, sum(count) AS positions, sum(next_tokens) AS bigrams
    FROM base.bigram_agreement WHERE run_id = $run_id GROUP BY token_id
    UNION ALL
    SELECT 'bigrams in the range that begins at ' || min_count || ' times', count(*), 0, sum(bigrams)
    FROM base.bigram_distance WHERE run_id = $run_id GROUP BY min_count
)
SELECT what || ': ' || coalesce(h.bigrams, 0) || ' are recorded, but the positions have ' || coalesce(w.bigrams, 0) AS problem
FROM wanted w FULL JOIN held h USING (what)
WHERE (w.entries, w.positions, w.bigrams) IS DISTINCT FROM (h.entries, h.positions, h.bigrams)
  AND EXISTS (FROM held)

-- Next-token neurons ------------------------------------------------------------------------------

-- name: inputs add up
-- The stored inputs of a neuron at a position are complete and sum to its pre-activation. In a gated MLP, the inputs
-- with reading = pre_linear sum to its linear input instead. There is an input from embed, from pos_embed if the model
-- has learned position embeddings, and from b_in. Each earlier layer gives an input from each head, from the MLP and
-- from the biases of attention and MLP. If the model's blocks are sequential, the heads and the attention bias of the
-- neuron's own layer give inputs, too.
WITH summed AS (
    SELECT layer, neuron, prompt, position_id, reading, sum(value::DOUBLE) AS total, count(*) AS sources,
           count(DISTINCT (component, source_layer, source_head)) AS different, sum(abs(value::DOUBLE)) AS size
    FROM base.neuron_input WHERE run_id = $run_id GROUP BY ALL
), wanted AS (
    SELECT o.* EXCLUDE (closure), 2 + (m.position_embedding = 'learned')::INTEGER + o.layer * (m.n_heads + 3) + if(m.parallel_residual, 0, m.n_heads + 1) AS sources,
           reading, if(reading = 'pre', pre_activation, pre_linear) AS wanted, if(reading = 'pre', closure, linear_closure) AS closure
    FROM base.neuron_occurrence o JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
    JOIN (SELECT unnest(enum_range(NULL::reading))::reading AS reading) ON reading = 'pre' OR m.is_gated
    WHERE run_id = $run_id
)
SELECT 'neuron L' || coalesce(s.layer, w.layer) || 'N' || coalesce(s.neuron, w.neuron) || ' at position '
       || coalesce(s.position_id, w.position_id) || ' has ' || coalesce(s.sources, 0) || ' of ' || coalesce(w.sources, 0)
       || ' inputs, and their sum differs from its ' || coalesce(w.reading, s.reading) || ' by ' || coalesce((s.total - w.wanted)::VARCHAR, 'an unknown amount (rows are missing)') AS problem
FROM wanted w FULL JOIN summed s
  ON s.layer = w.layer AND s.neuron = w.neuron AND s.position_id = w.position_id AND s.prompt IS NOT DISTINCT FROM w.prompt AND s.reading = w.reading
WHERE NOT coalesce(s.sources = w.sources AND s.different = w.sources AND abs(w.closure) <= closure_bound(s.sources, s.size)
                   AND abs(s.total - w.wanted - w.closure) <= base.float_error(w.closure) + 1e-12 * (1 + s.size), false)

-- name: inputs once
SELECT 'neuron L' || layer || 'N' || neuron || ' at position ' || position_id || ' has ' || count(*) || ' rows of inputs; it may have one' AS problem
FROM base.neuron_occurrence WHERE run_id = $run_id AND prompt IS NULL GROUP BY layer, neuron, position_id HAVING count(*) > 1

-- name: inputs against rows
-- If a neuron has both stored inputs and a row in base.neuron at a position, the activation that is stored with the
-- inputs equals the activation in the row, up to rounding.
SELECT 'neuron L' || o.layer || 'N' || o.neuron || ' at position ' || o.position_id || ' has activation ' || o.activation
       || ' with its inputs, but ' || n.activation || ' in its row' AS problem
FROM base.neuron_occurrence o JOIN base.neuron n USING (run_id, position_id, layer, neuron)
WHERE o.run_id = $run_id AND o.prompt IS NULL AND NOT abs(o.activation - n.activation) <= 0.001 + closure_bound(1, abs(n.activation)) -- the inputs and the row are from different forward passes

-- name: ablation effects
-- Each ablation is at a stored position. An ablation records the target token's logit without the ablation. If the
-- target is the position's next token or top prediction, this logit equals the logit in base.position, up to rounding.
SELECT 'the ablation of ' || e.units || ' at position ' || e.position_id || ' has the logit ' || e.logit || ' without the ablation; stored is '
       || coalesce(if(e.target_token_id = p.top_token_id, p.top_logit, p.next_logit)::VARCHAR, 'no such position') AS problem
FROM base.ablation_effect e LEFT JOIN positions p USING (run_id, position_id)
WHERE e.run_id = $run_id
  AND (p.position_id IS NULL
       OR (e.minus_token_id IS NULL AND e.target_token_id IN (p.top_token_id, p.next_token_id)
           AND NOT abs(e.logit - if(e.target_token_id = p.top_token_id, p.top_logit, p.next_logit)) <= 0.001 + closure_bound(1, abs(e.logit))))

-- name: ablation effects once
-- No two stored ablations of a run have the same position, units, settings and target.
SELECT 'the ablation of ' || units || ' at position ' || position_id || ' is stored ' || count(*) || ' times with the same settings' AS problem
FROM base.ablation_effect WHERE run_id = $run_id
GROUP BY position_id, units, at_position_id, replaced_by, draws, seed, target_token_id, minus_token_id HAVING count(*) > 1

-- name: unit effects complete
-- Estimates by attribution patching are stored for every head and neuron, exactly one for each sample of positions.
-- Measurements by ablation may be missing, but no head or neuron has two for the same sample. Each mean effect lies in
-- its confidence interval.
WITH estimated AS (
    SELECT e.replaced_by, e.sample, e.seed, e.effect_method, count(*) AS n, count(DISTINCT (e.kind, e.layer, e.unit)) AS units,
           any_value(m.n_layers * (m.n_heads + m.d_mlp)) AS wanted,
           bool_and(e.positions <= e.sample AND abs(e.mean_direct) <= e.mean_abs_direct + 1e-9 AND abs(e.mean_total) <= e.mean_abs_total + 1e-9
                    AND coalesce(e.mean_total BETWEEN e.total_low AND e.total_high, true)) AS is_sound
    FROM base.unit_effect e JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
    WHERE e.run_id = $run_id GROUP BY ALL
)
SELECT 'the effects by ' || effect_method || ' over ' || sample || ' positions have ' || n || ' rows for ' || units || ' of '
       || wanted || ' heads and neurons, or a mean outside its interval' AS problem
FROM estimated WHERE NOT coalesce(n = units AND (effect_method <> 'attribution' OR n = wanted) AND is_sound, false)

-- name: contrasts add up
-- The effects of the components of a contrast sum to the contrast's difference of logits. Each layer of the model has
-- its two components, attn and mlp.
WITH summed AS (
    SELECT c.document_id, c.logit_difference, c.size, sum(e.effect) AS total, count(e.layer) AS layers, any_value(m.n_layers) AS n_layers
    FROM base.contrast c JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
    LEFT JOIN contrast_components e USING (run_id, document_id)
    WHERE c.run_id = $run_id GROUP BY ALL
)
SELECT 'the components of the contrast of document ' || document_id || ' sum to ' || coalesce(total::VARCHAR, 'nothing') || ' over ' || layers / 2
       || ' of ' || n_layers || ' layers; its difference of logits is ' || logit_difference AS problem
FROM summed WHERE NOT coalesce(layers = 2 * n_layers AND abs(total - logit_difference) <= closure_bound(2 * n_layers, size), false)

-- name: layers of contrasts add up
-- In each layer of a contrast, the effects of the heads and of the attention bias sum to the column `attn`. The effects
-- of the stored neurons, of the remainder and of the MLP bias sum to the column `mlp`. Each row of base.contrast_layer
-- belongs to a contrast.
WITH head AS (
    SELECT document_id, layer, sum(effect) AS total, count(*) AS n FROM base.contrast_head WHERE run_id = $run_id GROUP BY ALL
), neuron AS (
    SELECT document_id, layer, sum(effect) AS total, min(abs(effect)) AS smallest FROM base.contrast_neuron WHERE run_id = $run_id GROUP BY ALL
)
SELECT 'the heads or neurons of layer ' || l.layer || ' in the contrast of document ' || l.document_id || ' do not sum to its components' AS problem
FROM base.contrast_layer l JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
LEFT JOIN head h USING (document_id, layer) LEFT JOIN neuron n USING (document_id, layer)
LEFT JOIN base.contrast c ON c.run_id = l.run_id AND c.document_id = l.document_id
WHERE l.run_id = $run_id
  AND NOT coalesce(h.n = m.n_heads AND abs(h.total + l.attn_bias - l.attn) <= 1e-9 * (1 + c.size)
                   AND abs(n.total + l.mlp_remainder + l.mlp_bias - l.mlp) <= 1e-9 * (1 + c.size) AND l.neuron_limit <= n.smallest, false)

-- name: sources of contrasts complete
-- For each contrast, base.contrast_source has one row for each of the pairs of a head and a source with the largest
-- effects. The number of rows is the same for all contrasts of a run that have enough pairs. A contrast with fewer
-- pairs has a row for each of its pairs.
WITH counted AS (
    SELECT c.document_id, count(s.layer) AS n, count(DISTINCT (s.layer, s.head, s.source_position_id)) AS sources,
           any_value(m.n_layers * m.n_heads * (p.position + 1)) AS most
    FROM base.contrast c JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
    LEFT JOIN base.position p ON p.run_id = c.run_id AND p.position_id = c.position_id
    LEFT JOIN base.contrast_source s ON s.run_id = c.run_id AND s.document_id = c.document_id
    WHERE c.run_id = $run_id GROUP BY c.document_id
)
SELECT 'the contrast of document ' || document_id || ' has ' || n || ' rows for ' || sources || ' sources' AS problem
FROM counted WHERE NOT coalesce(n = sources AND n = least(most, (SELECT max(n) FROM counted)), false)

-- name: contrasts against rows
-- Each contrast is at a stored position of its document, and its answer and its distractor are different tokens. The
-- difference of their log-probabilities equals the difference of their logits, unless a soft-cap changes the logits
-- first. Each source of the contrast is in the same document, at the contrast's position or before it.
SELECT 'the contrast of document ' || c.document_id || ' does not agree with its position ' || c.position_id || ', its tokens or its sources' AS problem
FROM base.contrast c JOIN base.run r USING (run_id) JOIN base.model m USING (model_id)
LEFT JOIN base.position p ON p.run_id = c.run_id AND p.position_id = c.position_id
WHERE c.run_id = $run_id
  AND NOT coalesce(p.document_id = c.document_id AND c.answer_token_id <> c.distractor_token_id AND c.answer_rank >= 1
                   AND (m.logit_cap IS NOT NULL OR abs(c.answer_logprob - c.distractor_logprob - c.logit_difference) <= closure_bound(1, c.size))
                   AND NOT EXISTS (FROM base.contrast_source s LEFT JOIN base.position o ON o.run_id = s.run_id AND o.position_id = s.source_position_id
                                   WHERE s.run_id = c.run_id AND s.document_id = c.document_id
                                     AND NOT coalesce(o.document_id = c.document_id AND o.position_id <= c.position_id AND s.attention BETWEEN 0 AND 1 + $tolerance, false)), false)

-- name: prompts
-- A neuron has as many prompts as its row in base.next_token_neuron says. Each prompt lies in one of the neuron's top
-- windows and ends at the position where the neuron's activation is largest in the window. When the model reads only
-- the prompt, the neuron's activation there is at least `share` (a setting in base.next_token_neuron) times the
-- activation in the whole window.
WITH recorded AS (
    SELECT *, count(*) AS records FROM base.next_token_neuron WHERE run_id = $run_id GROUP BY ALL
), held AS (
    SELECT layer, neuron, count(*) AS prompts, count(DISTINCT prompt) AS different,
           count(*) FILTER (w.position_id = o.position_id AND o.activation >= l.share * w.value - $tolerance - closure_bound(1, abs(w.value)) AND p.position + 1 >= o.tokens) AS sound
    FROM base.neuron_occurrence o
    LEFT JOIN recorded l USING (layer, neuron)
    LEFT JOIN base.position p ON p.run_id = $run_id AND p.position_id = o.position_id
    LEFT JOIN base.top_entry w
      ON w.run_id = $run_id AND w.kind = 'neuron' AND w.list = 'window' AND w.layer = o.layer AND w.unit = o.neuron AND w.rank = o.prompt
    WHERE o.run_id = $run_id AND o.prompt IS NOT NULL GROUP BY layer, neuron
)
SELECT 'neuron L' || layer || 'N' || neuron || ' has ' || coalesce(h.prompts, 0) || ' prompts, of which ' || coalesce(h.sound, 0)
       || ' fit their windows; ' || coalesce(r.prompts, 0) || ' are recorded' AS problem
FROM recorded r FULL JOIN held h USING (layer, neuron)
WHERE NOT coalesce(r.records = 1 AND coalesce(h.prompts, 0) = r.prompts AND coalesce(h.sound = h.prompts AND h.different = h.prompts, true), false)

-- name: prompts of heads
-- If a neuron has ablations, base.head_prompt has one row for each pair of a relevant head (see relevant_heads) and a
-- distinct prompt. The row says that the head is active if the head's term of the neuron's pre-activation exceeds the
-- threshold on the prompt (see active_heads). At most half of the prompts of a head are held out. Each head has
-- p-values of its Kolmogorov-Smirnov distances in base.ablation.
WITH different AS (
    SELECT run_id, layer, neuron, count(*) AS prompts FROM base.neuron_occurrence
    WHERE run_id = $run_id AND prompt IS NOT NULL AND duplicate_of IS NULL GROUP BY ALL
), wanted AS (
    SELECT r.layer, r.neuron, r.source_layer, r.source_head, r.prompts, r.active_prompts
    FROM relevant_heads(run := $run_id) r SEMI JOIN base.head_prompt USING (run_id, layer, neuron)
), held AS (
    SELECT h.layer, h.neuron, h.source_layer, h.source_head, count(*) AS prompts, count(DISTINCT h.prompt) AS different,
           count(*) FILTER (h.is_held_out) AS held_out,
           count(*) FILTER (o.duplicate_of IS NULL AND h.is_active = coalesce(s.above_mean > l.std_threshold, false)
                            AND h.probability BETWEEN 0 AND 1 + $tolerance AND h.ablated_probability BETWEEN 0 AND 1 + $tolerance
                            AND p.activation_p BETWEEN 0 AND 1 AND p.probability_p BETWEEN 0 AND 1) AS sound
    FROM base.head_prompt h
    LEFT JOIN base.ablation p USING (run_id, layer, neuron, source_layer, source_head)
    JOIN base.next_token_neuron l USING (run_id, layer, neuron)
    JOIN base.neuron_occurrence o USING (run_id, layer, neuron, prompt)
    JOIN base.head_share s USING (run_id, layer, neuron, prompt, source_layer, source_head)
    WHERE h.run_id = $run_id GROUP BY ALL
)
SELECT 'head L' || source_layer || 'H' || source_head || ' of neuron L' || layer || 'N' || neuron || ' has ' || coalesce(h.prompts, 0)
       || ' prompts, of which ' || coalesce(h.sound, 0) || ' are consistent; it must have ' || coalesce(w.prompts, 0)
       || ', at most half of them held out' AS problem
FROM wanted w FULL JOIN held h USING (layer, neuron, source_layer, source_head)
WHERE NOT coalesce(h.prompts = w.prompts AND h.different = w.prompts AND h.sound = w.prompts
                   AND 2 * h.held_out <= w.prompts, false)

-- name: near-duplicates among prompts
-- If two prompts of a neuron are near-duplicates, either both are held out or neither is. Near-duplicates end with the
-- same n tokens, where n is half the number of tokens of the shorter prompt, rounded up.
WITH place AS (
    SELECT layer, neuron, prompt, first_position_id + unnest(range(position_id - first_position_id + 1)) AS position_id
    FROM base.neuron_occurrence SEMI JOIN base.head_prompt USING (run_id, layer, neuron, prompt)
    WHERE run_id = $run_id AND prompt IS NOT NULL AND duplicate_of IS NULL
), read AS (
    SELECT layer, neuron, prompt, list(token_id ORDER BY position_id DESC) AS tokens
    FROM place JOIN base.position q USING (position_id) WHERE q.run_id = $run_id AND q.char_start IS NOT NULL GROUP BY ALL
), near AS (
    SELECT a.layer, a.neuron, a.prompt, b.prompt AS other, (least(len(a.tokens), len(b.tokens)) + 1) // 2 AS half
    FROM read a JOIN read b ON a.layer = b.layer AND a.neuron = b.neuron AND a.prompt < b.prompt
    WHERE a.tokens[:half] = b.tokens[:half]
)
SELECT 'prompts ' || n.prompt || ' and ' || n.other || ' of neuron L' || n.layer || 'N' || n.neuron || ' are near-duplicates, but only one of them is held out for head L'
       || h.source_layer || 'H' || h.source_head AS problem
FROM near n
JOIN base.head_prompt h ON h.run_id = $run_id AND h.layer = n.layer AND h.neuron = n.neuron AND h.prompt = n.prompt
JOIN base.head_prompt o ON o.run_id = $run_id AND o.layer = n.layer AND o.neuron = n.neuron AND o.prompt = n.other
                       AND o.source_layer = h.source_layer AND o.source_head = h.source_head
WHERE h.is_held_out <> o.is_held_out

-- name: explanations
-- A head of a neuron has at most one explanation by the same method, language model and prompt version. Each answer of
-- an explanation is about a different held-out prompt of the head. If the method is decision_list, every relevant head
-- of the neuron has an explanation, which answers every held-out prompt.
WITH head AS (
    SELECT layer, neuron, source_layer, source_head, count(*) FILTER (is_held_out) AS held_out,
           count(*) OVER (PARTITION BY layer, neuron) AS heads
    FROM base.head_prompt WHERE run_id = $run_id GROUP BY layer, neuron, source_layer, source_head
), answered AS (
    SELECT e.explanation_id, count(a.prompt) AS answers, count(DISTINCT a.prompt) AS different, count(*) FILTER (h.is_held_out) AS sound
    FROM base.explanation e LEFT JOIN base.explanation_answer a USING (explanation_id)
    LEFT JOIN base.head_prompt h USING (run_id, layer, neuron, source_layer, source_head, prompt)
    WHERE e.run_id = $run_id GROUP BY e.explanation_id
), told AS (
    SELECT e.*, a.answers, a.different, a.sound, head.held_out, head.heads,
           count(*) OVER (PARTITION BY layer, neuron, source_layer, source_head, method, language_model, prompt_version) AS alike,
           count(*) OVER (PARTITION BY layer, neuron, method, language_model, prompt_version) AS explained
    FROM base.explanation e JOIN answered a USING (explanation_id) LEFT JOIN head USING (layer, neuron, source_layer, source_head)
    WHERE e.run_id = $run_id
)
SELECT 'explanation ' || explanation_id || ' of head L' || source_layer || 'H' || source_head || ' of neuron L' || layer || 'N' || neuron
       || ' has ' || sound || ' valid answers for ' || coalesce(held_out, 0) || ' held-out prompts, or is not the only such explanation' AS problem
FROM told
WHERE NOT coalesce(alike = 1 AND answers = different AND answers = sound AND answers <= if(text IS NULL, 0, held_out)
                   AND (method <> 'decision_list' OR explained = heads AND answers = if(text IS NULL, 0, held_out)), false)
UNION ALL
SELECT 'an answer belongs to explanation ' || explanation_id || ', which does not exist'
FROM base.explanation_answer ANTI JOIN base.explanation USING (explanation_id)
