-- title: What a position sends on to later positions
-- question: On which later predictions does this position have a direct effect, through which heads?
-- why: Follows information forward, as decomposition follows it back. Only kept head-and-source terms are here, and what is missing at a receiver is at most its left_out_at_most; without a position, the one whose kept terms are largest in sum.
-- parameters: position = NULL; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), sender AS (
    SELECT coalesce($position, arg_max(source_position_id, (sent, -source_position_id)))
               AS position_id
    FROM (SELECT source_position_id, round(sum(abs(toward_next)), 3) AS sent
          FROM head_sources
          WHERE run_id = (FROM chosen) AND source_position_id < position_id
            AND toward_next IS NOT NULL
          GROUP BY source_position_id)
)
SELECT f.position_id AS sender, f.token AS sender_token, t.position_id AS receiver,
       t.position_id - f.position_id AS distance, t.token AS receiver_token, t.next_token,
       h.layer, h.head, round(h.attention::DOUBLE, 4) AS attention,
       round(h.toward_next::DOUBLE, 4) AS toward_next,
       round(t.source_bound::DOUBLE, 4) AS left_out_at_most
FROM head_sources h
JOIN positions f ON f.run_id = h.run_id AND f.position_id = h.source_position_id
JOIN positions t ON t.run_id = h.run_id AND t.position_id = h.position_id
WHERE h.source_position_id = (FROM sender) AND h.position_id > h.source_position_id
  AND h.toward_next IS NOT NULL
ORDER BY abs(h.toward_next) DESC, t.position_id, h.layer, h.head
LIMIT 30
