-- The store of a prompt.

-- name: last
SELECT max(position_id) AS position_id FROM base.position
