-- The queries that benchmarks/questions.py runs on DuckDB, Parquet and SQLite: each reads one table, without joins.

-- name: token: 100 occurrences
SELECT * FROM position WHERE token_id = {token} LIMIT 100

-- name: position: its components
SELECT * FROM contribution WHERE position_id = {position}

-- name: position: its neurons
SELECT * FROM neuron WHERE position_id = {position}

-- name: neuron: rows kept
SELECT * FROM neuron WHERE layer = {layer} AND neuron = {neuron}

-- name: neuron: top list
SELECT * FROM top_entry WHERE kind = 'neuron' AND list = 'high' AND layer = {layer} AND unit = {neuron}

-- name: head: by distance
SELECT source_offset, count(*), avg(attention) FROM head
WHERE layer = {layer} AND head = {head} GROUP BY source_offset

-- name: all: mean absolute effect of every head
SELECT layer, head, avg(abs(toward_next)) FROM head GROUP BY layer, head
