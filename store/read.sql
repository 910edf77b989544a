-- The questions behind store.Store's methods.

-- name: run_ids
SELECT run_id FROM base.run UNION SELECT run_id FROM base.shard ORDER BY run_id

-- name: neuron_contexts
SELECT n.*, c.before, c.token AS text, c.after
FROM neuron_contexts($layer, $neuron, run := $run) n, LATERAL (FROM context(n.position_id, 12, 6)) c
ORDER BY n.side, n.rank

-- name: head_contexts
SELECT h.*, c.before, c.token AS text, c.after, s.before AS source_before, s.token AS source_text, s.after AS source_after
FROM head_contexts($layer, $head, run := $run) h,
     LATERAL (FROM context(h.position_id, 12, 6)) c,
     LATERAL (FROM context(h.top_source_position_id, 6, 3)) s
ORDER BY h.side, h.rank
