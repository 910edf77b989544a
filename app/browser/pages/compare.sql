-- Compare two runs side by side.

-- name: loss_of_both
-- The loss of both runs over the tokens that both predicted, at the same position in the same window.
SELECT count(*) AS positions, -avg(a.next_logprob) AS loss_a, -avg(b.next_logprob) AS loss_b,
       avg(a.next_logprob - b.next_logprob) AS change,
       avg((b.next_logprob > a.next_logprob)::INTEGER) AS better,
       avg((a.next_rank = 1)::INTEGER) AS right_a, avg((b.next_rank = 1)::INTEGER) AS right_b
FROM base.position a
JOIN base.position b USING (document_id, window_id, position, token_id, next_token_id)
WHERE a.run_id = $run AND b.run_id = $other AND a.char_start IS NOT DISTINCT FROM b.char_start
  AND (SELECT count(DISTINCT corpus_id) = 1 FROM runs WHERE run_id IN ($run, $other))

-- name: change_by_document
-- For each document, the sum of the change in loss over the tokens that both runs predicted.
SELECT a.document_id, sum(a.next_logprob - b.next_logprob) AS total, count(*) AS positions
FROM base.position a
JOIN base.position b USING (document_id, window_id, position, token_id, next_token_id)
WHERE a.run_id = $run AND b.run_id = $other AND a.char_start IS NOT DISTINCT FROM b.char_start
  AND a.next_logprob IS NOT NULL AND b.next_logprob IS NOT NULL
GROUP BY a.document_id ORDER BY a.document_id

-- name: components_of_both
SELECT coalesce(a.component, b.component)::VARCHAR AS component, coalesce(a.layer, b.layer) AS layer,
       a.toward_next AS next_a, b.toward_next AS next_b, b.toward_next - a.toward_next AS next_change,
       a.toward_top AS top_a, b.toward_top AS top_b, b.toward_top - a.toward_top AS top_change
FROM (FROM contributions WHERE position_id = $position_a) a
FULL JOIN (FROM contributions WHERE position_id = $position_b) b
  ON a.component = b.component AND a.layer IS NOT DISTINCT FROM b.layer
ORDER BY a.component = 'final_bias', layer NULLS FIRST, component
