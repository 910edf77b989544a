-- Copies the rows of a store's only run. In the {k}-th copy, the ids of positions, documents, windows and shards are
-- larger by {k} times {positions}, {documents}, {windows} and {shards}.

-- name: copy
INSERT INTO base.document SELECT * REPLACE (document_id + {k} * {documents} AS document_id)
FROM base.document WHERE document_id < {first_document} + {documents};
INSERT INTO base.passage SELECT * REPLACE (passage_id + base.passage_id({k} * {documents}::BIGINT, 0) AS passage_id)
FROM base.passage WHERE passage_id < base.passage_id({first_document}::BIGINT + {documents}, 0);
INSERT INTO base.position SELECT * REPLACE (
    position_id + {k} * {positions} AS position_id, document_id + {k} * {documents} AS document_id,
    window_id + {k} * {windows} AS window_id)
FROM base.position WHERE position_id < {first} + {positions};
INSERT INTO base.contribution SELECT * REPLACE (position_id + {k} * {positions} AS position_id)
FROM base.contribution WHERE position_id < {first} + {positions};
INSERT INTO base.head SELECT * REPLACE (position_id + {k} * {positions} AS position_id)
FROM base.head WHERE position_id < {first} + {positions};
INSERT INTO base.head_source SELECT * REPLACE (position_id + {k} * {positions} AS position_id)
FROM base.head_source WHERE position_id < {first} + {positions};
INSERT INTO base.neuron SELECT * REPLACE (position_id + {k} * {positions} AS position_id)
FROM base.neuron WHERE position_id < {first} + {positions};
INSERT INTO base.shard SELECT * REPLACE (
    shard + {k} * {shards} AS shard, first_position_id + {k} * {positions} AS first_position_id,
    last_position_id + {k} * {positions} AS last_position_id)
FROM base.shard WHERE shard < {shards}

-- name: spread
-- Moves each position of the lists and of the sample into one of the copies, chosen by a hash.
UPDATE base.top_entry SET position_id = position_id + {positions} * (hash(position_id) % {times})::BIGINT;
UPDATE base.top_source SET position_id = position_id + {positions} * (hash(position_id) % {times})::BIGINT;
UPDATE base.head_offset SET positions = {times} * positions, attention = {times} * attention,
    effects = {times} * effects, effect = {times} * effect;
UPDATE base.sample_position SET position_id = position_id + {positions} * (hash(position_id) % {times})::BIGINT

-- name: size
SELECT min(position_id) AS first, count(*) AS positions, max(window_id) + 1 AS windows,
       (SELECT min(document_id) FROM base.document) AS first_document,
       (SELECT count(*) FROM base.document) AS documents, (SELECT count(*) FROM base.shard) AS shards
FROM base.position
