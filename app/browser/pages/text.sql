-- The text of a document, and the values that colour it. A query that needs no token as text reads base.position,
-- which is faster than the view positions because it does not join the vocabulary.

-- name: tokens
SELECT p.position_id, p.position, p.window_id, p.document_id, p.token, p.next_token, p.top_token, p.char_start, p.char_end, {its_text},
       -p.next_logprob AS loss, p.next_rank AS rank, p.entropy, p.next_logprob, p.top_logprob
FROM positions p {passage} WHERE p.run_id = $run AND p.position_id BETWEEN $first AND $last ORDER BY p.position_id

-- name: its_text
base.excerpt(s.text, p.char_start, p.char_end - p.char_start) AS text

-- name: passage
LEFT JOIN base.passage s ON s.passage_id = base.passage_id(p.document_id, p.char_start)

-- name: documents
-- Documents whose file name, metadata or beginning contains the search text. If the text is a document_id, that document comes first.
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
-- The first layer from which the logit lens gives the model's top prediction at every layer up to the last.
SELECT p.position_id, coalesce(max(l.layer) FILTER (l.top_token_id <> p.top_token_id) + 1, 0)::INTEGER AS settled
FROM base.position p JOIN base.lens l USING (run_id, position_id)
WHERE p.run_id = $run AND p.position_id BETWEEN $first AND $last AND l.position_id BETWEEN $first AND $last
GROUP BY p.position_id ORDER BY p.position_id

-- name: neuron_hits
-- The nearest positions before and after a given position in the neuron's top lists.
SELECT max(position_id) FILTER (position_id < $position) AS before, min(position_id) FILTER (position_id > $position) AS after
FROM neuron_top WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $unit::UINTEGER

-- name: head_hits
SELECT max(position_id) FILTER (position_id < $position) AS before, min(position_id) FILTER (position_id > $position) AS after
FROM head_top WHERE run_id = $run AND layer = $layer::UTINYINT AND head = $unit::UTINYINT
