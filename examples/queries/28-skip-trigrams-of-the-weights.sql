-- title: Skip-trigrams of the weights, looked for in the corpus
-- question: Of the skip-trigrams that a head knows by its weights alone, which occur, and what is the head's direct effect there?
-- why: The weights speak of tokens fresh from the embedding, and later layers never see those: where a strong skip-trigram occurs and the head has no direct effect, its inputs were something else by then. An occurrence: the source up to 16 tokens back in the window, not the neighbour. kept: of those, the terms among the strongest of their position; the means are over them.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), here AS (
    SELECT position_id, window_id, token_id, next_token_id
    FROM positions WHERE run_id = (FROM chosen)
), known AS (
    SELECT t.* FROM skip_trigrams t JOIN runs r USING (model_id) WHERE r.run_id = (FROM chosen)
), places AS (
    SELECT t.layer, t.head, t.rank, p.position_id, source.position_id AS source_position_id
    FROM known t
    JOIN here p ON p.token_id = t.destination_token_id AND p.next_token_id = t.output_token_id
    JOIN here source ON source.token_id = t.source_token_id AND source.window_id = p.window_id
                    AND source.position_id BETWEEN p.position_id - 16 AND p.position_id - 2
), met AS (
    SELECT o.layer, o.head, o.rank, count(*) AS places, count(s.position_id) AS kept,
           avg(s.attention) AS attention, avg(s.toward_next) AS toward_next
    FROM places o LEFT JOIN head_sources s USING (layer, head, position_id, source_position_id)
    GROUP BY ALL
)
SELECT t.layer, t.head, t.source_token, t.destination_token, t.output_token,
       round(t.strength, 3) AS strength, round(t.attention, 4) AS attention_by_weights,
       m.places, m.kept, round(m.attention, 4) AS mean_attention,
       round(m.toward_next, 3) AS mean_toward_next
FROM known t JOIN met m USING (layer, head, rank)
ORDER BY t.strength DESC, t.layer, t.head, t.rank
LIMIT 20
