-- From schema version 8 to 9. The tables of version 8 are in the database schema v8.
-- Each table that differs in version 9 has a query here.

-- name: tokenizer
-- Version 8 could read only byte-level BPE tokenizers; the bytes of their tokens spell the normalised text (NFC).
SELECT *, 'NFC' AS spells FROM v8.tokenizer

-- name: token
SELECT *, regexp_full_match(token, '<\|\w+\|>|</?(s|pad|unk|mask)>|\[(CLS|SEP|PAD|UNK|MASK)\]') AS is_special
FROM v8.token

-- name: model
-- Version 8 did not record the model's configuration. Version 9 compares configurations; NULL matches any configuration.
SELECT *, NULL::VARCHAR AS config FROM v8.model

-- name: run
-- In version 8, lists and statistics include special tokens.
-- Version 8 also parsed special tokens that are written out in a text.
SELECT * REPLACE (json_merge_patch(settings, '{"special_in_lists": true, "parse_special": true}') AS settings) FROM v8.run

-- name: shard
-- Version 8 had no worst_closure_ratio.
-- This query computes an upper bound of the ratio, because closure_bound is at least 1e-4.
SELECT s.*, s.worst_closure / 1e-4 AS worst_closure_ratio,
       (SELECT count(*) FROM v8.position p JOIN v8.run r ON r.run_id = p.run_id JOIN v8.model m ON m.model_id = r.model_id
        JOIN v9.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
        WHERE p.run_id = s.run_id AND p.position_id BETWEEN s.first_position_id AND s.last_position_id AND t.is_special) AS special_positions
FROM v8.shard s ORDER BY s.run_id, s.shard

-- name: position
-- A character that the tokenizer dropped belongs to the token before it.
-- If there is no token before it, the character belongs to the first token.
WITH placed AS (
    SELECT p.run_id, p.position_id, p.char_start,
           lag(p.position_id) OVER of_document IS NULL AS is_first_of_text,
           coalesce(lead(p.char_start) OVER of_document, CASE WHEN r.status = 'finished' AND (r.settings->>'limit_tokens') IS NULL THEN length(d.text) END) AS next_start,
           p.char_end
    FROM v8.position p JOIN v8.run r USING (run_id) JOIN v8.document d ON d.document_id = p.document_id
    WHERE p.char_start IS NOT NULL
    WINDOW of_document AS (PARTITION BY p.run_id, p.document_id ORDER BY p.position_id)
), moved AS (
    SELECT run_id, position_id, CASE WHEN is_first_of_text THEN 0 ELSE char_start END AS start_now, greatest(char_end, next_start) AS end_now
    FROM placed WHERE is_first_of_text AND char_start > 0 OR next_start > char_end
)
SELECT p.* REPLACE (coalesce(m.start_now, p.char_start)::INTEGER AS char_start, coalesce(m.end_now, p.char_end)::INTEGER AS char_end)
FROM v8.position p LEFT JOIN moved m ON m.run_id = p.run_id AND m.position_id = p.position_id
ORDER BY p.run_id, p.position_id

-- name: unit_stat
-- Version 8 stored sums of head effects that were computed in float32. This query computes them again from the rows.
-- The sums are now exact, because the rows have integer numbers of steps of 2^-23.
WITH summed AS (
    SELECT run_id, layer, head AS unit, sum(effect) AS total, sum(abs(effect)) AS total_abs, sum(effect * effect) AS squares
    FROM (SELECT run_id, layer, head, toward_next::DOUBLE / 8388608 AS effect FROM v8.head_effect) GROUP BY ALL
)
SELECT u.* REPLACE (coalesce(h.total, u.total) AS total, coalesce(h.squares, u.squares) AS squares,
                    coalesce(h.total, u.effect) AS effect, coalesce(h.total_abs, u.effect_abs) AS effect_abs)
FROM v8.unit_stat u LEFT JOIN summed h ON u.is_head AND h.run_id = u.run_id AND h.layer = u.layer AND h.unit = u.unit
ORDER BY u.run_id, u.is_head, u.layer, u.unit

-- name: weights
-- Version 8 drew no random directions or rotations, so it had no null distributions.
SELECT w.*, m.d_model - 1 AS dimensions, 0 AS rotations, 0 AS directions, NULL::FLOAT AS congruence_mean, NULL::FLOAT AS congruence_std
FROM v8.weights w JOIN v8.model m USING (model_id) ORDER BY w.model_id

-- name: neuron_read
SELECT *, NULL::FLOAT AS z FROM v8.neuron_read

-- name: head_weight
SELECT *, NULL::FLOAT AS copying_z, NULL::FLOAT AS matching_z FROM v8.head_weight

-- name: composition
SELECT * EXCLUDE (baseline), NULL::FLOAT AS z, NULL::FLOAT AS p FROM v8.composition

-- name: head_prompt
-- A held-out prompt stops being held out if one of its near-duplicates is not held out. Near-duplicates of
-- near-duplicates count, too.
WITH RECURSIVE place AS (
    SELECT run_id, layer, neuron, prompt, first_position_id + unnest(range(position_id - first_position_id + 1)) AS position_id
    FROM v8.neuron_occurrence SEMI JOIN v8.head_prompt USING (run_id, layer, neuron, prompt)
    WHERE prompt IS NOT NULL AND duplicate_of IS NULL
), read AS (
    SELECT run_id, layer, neuron, prompt, list(token_id ORDER BY position_id DESC) AS tokens
    FROM place JOIN v8.position q USING (run_id, position_id) WHERE q.char_start IS NOT NULL GROUP BY ALL
), near AS (
    SELECT run_id, layer, neuron, a.prompt, b.prompt AS other
    FROM read a JOIN read b USING (run_id, layer, neuron)
    WHERE a.prompt <> b.prompt
      AND a.tokens[:(least(len(a.tokens), len(b.tokens)) + 1) // 2] = b.tokens[:(least(len(a.tokens), len(b.tokens)) + 1) // 2]
), known AS (
    SELECT run_id, layer, neuron, source_layer, source_head, prompt FROM v8.head_prompt WHERE NOT is_held_out
    UNION
    SELECT run_id, layer, neuron, k.source_layer, k.source_head, n.other FROM known k JOIN near n USING (run_id, layer, neuron, prompt)
)
SELECT h.* REPLACE (h.is_held_out AND k.prompt IS NULL AS is_held_out)
FROM v8.head_prompt h LEFT JOIN known k USING (run_id, layer, neuron, source_layer, source_head, prompt)
ORDER BY run_id, layer, neuron, source_layer, source_head, prompt

-- name: explanation_answer
SELECT a.* FROM v8.explanation_answer a JOIN v8.explanation e USING (explanation_id)
SEMI JOIN v9.head_prompt h ON h.is_held_out AND h.prompt = a.prompt AND (h.run_id, h.layer, h.neuron, h.source_layer, h.source_head)
                              = (e.run_id, e.layer, e.neuron, e.source_layer, e.source_head)
ORDER BY a.explanation_id, a.prompt
