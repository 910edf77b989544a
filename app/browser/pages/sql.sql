-- The columns of the public views, with their comments.

-- name: columns
SELECT table_name AS view, column_name AS column, coalesce(comment, data_type) AS comment
FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
ORDER BY table_name, column_index
