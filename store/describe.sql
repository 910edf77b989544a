-- The queries of the command `annotate schema`, which prints the public views and macros of a store with their comments
-- from schema.sql.

-- name: names
SELECT name, comment -- sorted as in schema.sql, because a database file does not keep that order
FROM (
    SELECT view_name AS name, comment, 'CREATE VIEW ' || view_name || ' AS' AS statement
    FROM duckdb_views() WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
    UNION ALL
    SELECT function_name || '(' || array_to_string(parameters, ', ') || ')', comment,
           'CREATE MACRO ' || function_name || '('
    FROM duckdb_functions() WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
)
ORDER BY strpos($schema, statement)

-- name: columns
SELECT column_name AS column, data_type AS type, comment
FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = 'main' AND table_name = $name
ORDER BY column_index
