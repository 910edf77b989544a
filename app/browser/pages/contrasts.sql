-- Which columns of a data set of contrasts can make groups.

-- name: contrast_keys
-- The keys of the metadata that have few values, so that they make groups.
SELECT k.key FROM (SELECT document_id, metadata, unnest(json_keys(metadata)) AS key FROM contrasts WHERE run_id = $run) k
GROUP BY k.key HAVING count(DISTINCT k.metadata->>k.key) BETWEEN 2 AND 20 ORDER BY k.key

-- name: contrasts_there
-- How many contrasts the run has.
SELECT count(*) AS n FROM contrasts WHERE run_id = $run
