-- Compares the rows of both stores: how many rows both have, how many only one has, and the largest difference.
-- At a position without a next token, toward_next is NULL in the store and is not compared.

-- name: components
WITH mine AS (
    SELECT position_id, coalesce(layer || '_', '') || component AS name, toward_next, toward_top
    FROM mine.contributions WHERE component <> 'final_bias'
)
SELECT count(*) FILTER (m.toward_top IS NOT NULL AND t.toward_top IS NOT NULL),
       count(*) FILTER (m.toward_top IS NULL OR t.toward_top IS NULL),
       max(greatest(abs(m.toward_next - t.toward_next), abs(m.toward_top - t.toward_top)))
FROM mine m FULL JOIN theirs.component t USING (position_id, name)

-- name: heads
SELECT count(*) FILTER (m.toward_top IS NOT NULL AND t.toward_top IS NOT NULL),
       count(*) FILTER (m.toward_top IS NULL OR t.toward_top IS NULL),
       max(greatest(abs(m.toward_next - t.toward_next), abs(m.toward_top - t.toward_top)))
FROM mine.heads m FULL JOIN theirs.head t USING (position_id, layer, head)

-- name: kept neurons, which the store rounds to 0.001
SELECT count(*) FILTER (m.toward_top IS NOT NULL AND t.toward_top IS NOT NULL),
       count(*) FILTER (m.toward_top IS NULL OR t.toward_top IS NULL),
       max(greatest(abs(m.toward_next - t.toward_next), abs(m.toward_top - t.toward_top),
                    abs(m.activation - t.activation)))
FROM mine.neurons m FULL JOIN theirs.neuron t USING (position_id, layer, neuron)
