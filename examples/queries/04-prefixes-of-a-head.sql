-- title: Prefixes where a head was active, and the same ones where it was silent
-- question: After which tokens does a head write much, and is it ever silent after the very same tokens?
-- why: The same last tokens with and without the head are a minimal pair: what differs lies further back. Active is an output norm in the head's upper tenth, silent in its lower half; prefixes that are active at least twice and never silent come second.
-- parameters: layer = 3; head = 2; tokens = 2; active = 0.9; silent = 0.5; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), prefixes AS (
    SELECT run_id, position_id, list(token) OVER last_tokens AS prefix,
           position - first_value(position) OVER last_tokens + 1 AS size
    FROM positions
    WHERE run_id = (FROM chosen)
    WINDOW last_tokens AS (PARTITION BY window_id ORDER BY position
                           ROWS BETWEEN $tokens - 1 PRECEDING AND CURRENT ROW)
), levels AS (
    SELECT p.prefix, p.position_id, h.output_norm,
           percent_rank() OVER (ORDER BY h.output_norm) AS level
    FROM prefixes p JOIN heads h USING (run_id, position_id)
    WHERE h.layer = $layer AND h.head = $head AND p.size = $tokens
), active AS (
    SELECT prefix, count(*) AS active_at, min(position_id) AS active_position_id,
           round(avg(output_norm), 3) AS active_norm
    FROM levels WHERE level >= $active GROUP BY prefix
), silent AS (
    SELECT prefix, count(*) AS silent_at, min(position_id) AS silent_position_id,
           round(avg(output_norm), 3) AS silent_norm
    FROM levels WHERE level < $silent GROUP BY prefix
), both_ways AS (
    SELECT 'active and silent' AS head_was, * FROM active JOIN silent USING (prefix)
    ORDER BY least(active_at, silent_at) DESC, active_norm - silent_norm DESC, prefix
    LIMIT 20
), one_way AS (
    SELECT 'active, never silent' AS head_was, *, 0 AS silent_at
    FROM active ANTI JOIN silent USING (prefix)
    WHERE active_at > 1
    ORDER BY active_at DESC, active_norm DESC, prefix
    LIMIT 20
)
SELECT head_was, array_to_string(prefix, '') AS last_tokens, active_at, silent_at, active_norm,
       silent_norm, active_position_id, silent_position_id
FROM (FROM both_ways UNION ALL BY NAME FROM one_way)
ORDER BY head_was, least(active_at, silent_at) DESC, active_at DESC, active_norm DESC, prefix
