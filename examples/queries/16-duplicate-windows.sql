-- title: Windows that begin alike
-- question: Which windows repeat another one from their start, in part or as a whole?
-- why: Where two windows begin with the same tokens all activations there are the same, so a duplicate stands twice in every top list and counts twice in every mean. shared is how many tokens from the start are equal, whole_window whether all are; windows that a stride overlaps are left out.
-- parameters: tokens = 3; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), windows AS (
    SELECT window_id, min(document_id) AS document_id,
           list(token_id ORDER BY position_id) AS ids, list(token ORDER BY position_id) AS tokens
    FROM positions
    WHERE run_id = (FROM chosen)
    GROUP BY window_id
    HAVING max(position) = count(*) - 1
), pairs AS (
    SELECT a.window_id, b.window_id AS other_window_id, a.document_id,
           b.document_id AS other_document_id, a.tokens,
           len(a.ids) AS size, len(b.ids) AS other_size,
           list_position(list_transform(range(1, 1 + least(size, other_size)),
                                        lambda i: a.ids[i] = b.ids[i]), false) AS first_other
    FROM windows a
    JOIN windows b ON a.ids[:$tokens] = b.ids[:$tokens] AND a.window_id < b.window_id
    WHERE least(len(a.ids), len(b.ids)) >= $tokens
), counted AS (
    SELECT *, coalesce(first_other - 1, least(size, other_size)) AS shared FROM pairs
)
SELECT window_id, other_window_id, document_id, other_document_id, shared,
       shared = size AND size = other_size AS whole_window, size, other_size,
       array_to_string(tokens[:least(shared, 12)], '') AS first_tokens
FROM counted
ORDER BY shared DESC, window_id, other_window_id
LIMIT 30
