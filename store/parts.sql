-- The statements that make the index of a run in parts (store/elsewhere/index.py). The index is the default database
-- `store`, and the parts are attached as part_1, part_2, …. {rows} stands for the rows that all parts together have of
-- the table that a statement is about.

-- name: top_entry
-- The top-k lists of one kind, name and layer, from the candidates of all parts.
INSERT INTO base.top_entry BY NAME
SELECT run_id, kind, list, layer, unit,
       row_number() OVER (PARTITION BY unit ORDER BY if(list = 'low', value, -value), position_id)::USMALLINT AS rank, position_id, value
FROM ({rows}) WHERE kind = $kind::unit_kind AND list = $list::unit_list AND layer = $layer::UTINYINT
QUALIFY rank <= (SELECT list_size FROM base.run) ORDER BY unit, rank

-- name: unit_stat
INSERT INTO base.unit_stat BY NAME
SELECT run_id, kind, layer, unit, sum(count) AS count, sum(total) AS total, sum(squares) AS squares, min(minimum) AS minimum,
       max(maximum) AS maximum, sum(positive) AS positive,
       list_reduce(list(histogram), lambda a, b: list_transform(list_zip(a, b), lambda bin: bin[1] + bin[2])) AS histogram,
       sum(effect_count) AS effect_count, sum(effect) AS effect, sum(effect_abs) AS effect_abs
FROM ({rows}) GROUP BY run_id, kind, layer, unit ORDER BY kind, layer, unit

-- name: attention_stat
INSERT INTO base.attention_stat BY NAME
SELECT run_id, layer, head, behaviour, sum(total) AS total, sum(count) AS count
FROM ({rows}) GROUP BY run_id, layer, head, behaviour ORDER BY layer, head, behaviour

-- name: sample_unit
-- The sampled values of one kind of unit in one layer, rounded to FLOAT as by `annotate merge`.
INSERT INTO base.sample_unit BY NAME
SELECT run_id, kind, layer, unit, list(value ORDER BY position_id) AS values
FROM (SELECT run_id, kind, layer, position_id, unnest(values::FLOAT[]) AS value, generate_subscripts(values, 1) - 1 AS unit
      FROM ({rows}) WHERE kind = $kind::unit_kind AND layer = $layer::UTINYINT)
GROUP BY run_id, kind, layer, unit ORDER BY unit

-- name: finish_run
-- Mark the run as finished, at the time at which its last part was finished.
UPDATE base.run SET status = 'finished', started = (SELECT min(started) FROM ({rows})), finished = (SELECT max(committed) FROM base.shard)

-- name: checksum
INSERT INTO base.checksum VALUES ($owner, $owner_id, $name, $shard, $rows, $checksum)

-- name: checksums_of_positions
-- The checksums of the rows that stay in the parts, or that are copied unchanged.
INSERT INTO base.checksum
FROM ({rows}) WHERE owner = 'run' AND list_contains($names, name) ORDER BY name, shard

-- name: make_record
-- Make the table of the files from which the index was made, with the range of each one's positions.
CREATE SCHEMA made_of;
CREATE TABLE made_of.part_file (number INTEGER, name VARCHAR, bytes BIGINT, changed BIGINT, first_position_id BIGINT, last_position_id BIGINT, made_by VARCHAR)

-- name: record
INSERT INTO made_of.part_file VALUES ($number, $name, $bytes, $changed, $first_position_id, $last_position_id, $made_by)

-- name: recorded
SELECT name, bytes, changed, first_position_id, last_position_id, made_by FROM store.made_of.part_file ORDER BY number
