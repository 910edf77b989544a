-- One position, its neighbours, and the tokens to which it can attend.

-- name: lens_window
-- The top prediction of each layer at a position and at the tokens before it in its window.
SELECT l.layer, l.position_id, 1 AS rank, l.top_token AS token, l.top_logprob AS logprob, l.next_logprob, l.next_rank
FROM lens l JOIN base.position p USING (run_id, position_id)
WHERE l.run_id = $run AND l.position_id BETWEEN $position - $tokens + 1 AND $position
  AND p.window_id = (SELECT window_id FROM base.position WHERE run_id = $run AND position_id = $position)
ORDER BY l.layer, l.position_id

-- name: texts
SELECT position_id, token FROM positions WHERE position_id IN (SELECT unnest($positions))

-- name: read
-- The tokens to which a position can attend. In a run with --stride, some of these tokens have their rows in the
-- previous window, so this query reads rows of the document, not of the window.
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

-- name: place
-- The number of a position among the positions of its document, from 1 on; their position_ids are consecutive.
SELECT $position - min(position_id) + 1 AS number FROM base.position WHERE run_id = $run AND document_id = $document

-- name: at_place
SELECT position_id FROM (
    SELECT min(position_id) + $number - 1 AS position_id, max(position_id) AS last
    FROM base.position WHERE run_id = $run AND document_id = $document
) WHERE $number > 0 AND position_id <= last

-- name: hardest
-- The positions with the largest loss. A text of a few tokens that is copied again and again has many of them, so each
-- pair of token and next token is listed once.
SELECT arg_min(position_id, next_logprob) AS position_id FROM base.position
WHERE run_id = $run AND next_logprob IS NOT NULL
GROUP BY token_id, next_token_id ORDER BY min(next_logprob) LIMIT $limit

-- name: fed_neurons
-- The neurons whose inputs at this position are stored.
SELECT layer, neuron, pre_activation, activation, closure FROM base.neuron_occurrence
WHERE run_id = $run AND position_id = $position AND prompt IS NULL ORDER BY layer, neuron

-- name: stored_ablations
FROM ablation_effects WHERE position_id = $position ORDER BY abs(total_effect) DESC

-- name: stored_ablations_of_unit
-- For the given positions, the stored total effect on the next token of setting one unit's output to zero at all tokens.
SELECT position_id, logit - ablated_logit AS total_effect
FROM base.ablation_effect e JOIN base.position p USING (run_id, position_id)
WHERE run_id = $run AND position_id IN (SELECT unnest($positions)) AND units = $unit AND replaced_by = 'zero'
  AND at_position_id IS NULL AND target_token_id = p.next_token_id AND minus_token_id IS NULL
