-- The metadata keys that conditions can use, and the counts that facets show.

-- name: metadata_keys
-- The metadata keys. The column shared is false for a key such as an id, which has another value in nearly every document.
-- A key that is empty or contains a quote is left out, because `position.metadata` cannot read it.
SELECT field.key, count(DISTINCT field.value ->> '$') < 0.9 * count(*) AS shared
FROM documents d, json_each(d.metadata) field
WHERE d.corpus_id = (SELECT corpus_id FROM runs WHERE run_id = $run)
  AND field.key <> '' AND NOT contains(field.key, '"')
GROUP BY field.key ORDER BY field.key

-- name: facets
-- Counts of the positions of a query: by document, by metadata value, by range of ten positions of the window, and by token.
WITH hits AS MATERIALIZED (
    SELECT p.document_id, p.position, p.token
    FROM ({every}) JOIN positions p USING (position_id) WHERE p.run_id = $run
),
fields AS (
    SELECT d.document_id, field.key, field.value ->> '$' AS value
    FROM documents d, json_each(d.metadata) field
    WHERE d.document_id IN (SELECT document_id FROM hits) AND field.type NOT IN ('OBJECT', 'ARRAY', 'NULL')
      AND field.key <> '' AND NOT contains(field.key, '"')
),
counted AS (
    SELECT 'metadata' AS facet, key, value, NULL AS beginning, count(*) AS found
    FROM hits JOIN fields USING (document_id) GROUP BY ALL
    UNION ALL
    SELECT 'document', NULL, document_id::VARCHAR, left(d.text, 60), count(*)
    FROM hits JOIN documents d USING (document_id) GROUP BY ALL
    UNION ALL
    SELECT 'position', NULL, (position // 10 * 10)::VARCHAR, NULL, count(*) FROM hits GROUP BY ALL
    UNION ALL
    SELECT 'token', NULL, token, NULL, count(*) FROM hits GROUP BY ALL
)
FROM counted ORDER BY facet, key, CASE facet WHEN 'position' THEN value::BIGINT ELSE -found END, value
