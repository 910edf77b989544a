-- The metadata keys by which the contrasts of a run can be grouped, and the number of contrasts.

-- name: contrast_keys
-- The metadata keys with 2 to 20 different values, by which the page can group the contrasts.
SELECT k.key FROM (SELECT document_id, metadata, unnest(json_keys(metadata)) AS key FROM contrasts WHERE run_id = $run) k
GROUP BY k.key HAVING count(DISTINCT k.metadata->>k.key) BETWEEN 2 AND 20 ORDER BY k.key

-- name: contrasts_there
-- How many contrasts the run has.
SELECT count(*) AS n FROM contrasts WHERE run_id = $run
