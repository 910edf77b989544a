-- Upgrade a store from schema version 8 to 9. During the upgrade, the tables of version 8 are in the database schema
-- v8. Each query returns the rows of one table of version 9 and has the name of that table. A table without a query
-- here is copied unchanged.

-- name: tokenizer
-- Version 8 could read only byte-level BPE tokenizers. The bytes of their tokens give the text after Unicode
-- normalisation, which the column `spells` records as NFC.
SELECT *, 'NFC' AS spells FROM v8.tokenizer

-- name: token
SELECT *, regexp_full_match(token, '<\|\w+\|>|</?(s|pad|unk|mask)>|\[(CLS|SEP|PAD|UNK|MASK)\]') AS is_special
FROM v8.token

-- name: model
-- Set `config` to NULL, because version 8 did not record the model's configuration. When version 9 looks for a stored
-- model with a certain configuration, NULL matches every configuration.
SELECT *, NULL::VARCHAR AS config FROM v8.model

-- name: run
-- Add two settings that version 8 did not have, with the values that describe what version 8 always did. It included
-- special tokens in top-k lists and statistics (special_in_lists). If a text contained a special token in writing, such
-- as <|endoftext|>, version 8 read it as that token (parse_special).
SELECT * REPLACE (json_merge_patch(settings, '{"special_in_lists": true, "parse_special": true}') AS settings) FROM v8.run

-- name: shard
-- Version 8 did not store worst_closure_ratio, the largest ratio of a closure error to closure_bound. This query
-- computes an upper bound of the ratio: closure_bound is at least 1e-4, so the ratio is at most the largest closure
-- error divided by 1e-4.
SELECT s.*, s.worst_closure / 1e-4 AS worst_closure_ratio,
       (SELECT count(*) FROM v8.position p JOIN v8.run r ON r.run_id = p.run_id JOIN v8.model m ON m.model_id = r.model_id
        JOIN v9.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
        WHERE p.run_id = s.run_id AND p.position_id BETWEEN s.first_position_id AND s.last_position_id AND t.is_special) AS special_positions
FROM v8.shard s ORDER BY s.run_id, s.shard

-- name: position
-- Extend the character spans of tokens to the characters that the tokenizer dropped. A dropped character belongs to the
-- token before it or, if there is none, to the first token of the document.
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
-- Compute the sums of head effects again from the stored rows. Version 8 added them in float32, with rounding errors.
-- The sums computed here are exact, because each row has its effect as an integer number of steps of 2^-23.
WITH summed AS (
    SELECT run_id, layer, head AS unit, sum(effect) AS total, sum(abs(effect)) AS total_abs, sum(effect * effect) AS squares
    FROM (SELECT run_id, layer, head, toward_next::DOUBLE / 8388608 AS effect FROM v8.head_effect) GROUP BY ALL
)
SELECT u.* REPLACE (coalesce(h.total, u.total) AS total, coalesce(h.squares, u.squares) AS squares,
                    coalesce(h.total, u.effect) AS effect, coalesce(h.total_abs, u.effect_abs) AS effect_abs)
FROM v8.unit_stat u LEFT JOIN summed h ON u.is_head AND h.run_id = u.run_id AND h.layer = u.layer AND h.unit = u.unit
ORDER BY u.run_id, u.is_head, u.layer, u.unit

-- name: weights
-- Version 8 had no null distributions, which version 9 computes from random directions and rotations. So the numbers of
-- directions and of rotations are 0 here, and the mean and std of the congruence's null distribution are NULL.
SELECT w.*, m.d_model - 1 AS dimensions, 0 AS rotations, 0 AS directions, NULL::FLOAT AS congruence_mean, NULL::FLOAT AS congruence_std
FROM v8.weights w JOIN v8.model m USING (model_id) ORDER BY w.model_id

-- name: neuron_read
SELECT *, NULL::FLOAT AS z FROM v8.neuron_read

-- name: head_weight
SELECT *, NULL::FLOAT AS copying_z, NULL::FLOAT AS matching_z FROM v8.head_weight

-- name: composition
SELECT * EXCLUDE (baseline), NULL::FLOAT AS z, NULL::FLOAT AS p FROM v8.composition

-- name: head_prompt
-- From version 9 on, prompts that are near-duplicates of each other are all held out, or none of them is. So a held-out
-- prompt stops being held out if one of its near-duplicates is not held out. Near-duplicates of near-duplicates count
-- as near-duplicates, too.
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
