-- The neurons with the largest effects, and the positions at which a neuron's inputs are stored.

-- name: strongest_neurons
SELECT layer, neuron, mean_abs_effect, mean_effect, fraction_positive, max FROM neuron_stats
WHERE run_id = $run ORDER BY mean_abs_effect DESC, layer, neuron LIMIT $limit

-- name: around
-- The tokens around some positions, in the same documents; the column example says around which.
SELECT here.example, p.position_id, p.token, p.char_start, p.char_end, {its_text}
FROM (
    SELECT position_id AS example, document_id, unnest(range(position_id - $before, position_id + $after + 1)) AS near
    FROM base.position WHERE run_id = $run AND position_id IN (SELECT unnest($positions))
) here JOIN positions p ON p.run_id = $run AND p.position_id = here.near AND p.document_id = here.document_id {passage}
ORDER BY here.example, p.position_id

-- name: is_looked_up
SELECT count(*) > 0 AS is_looked_up FROM base.next_token_neuron WHERE run_id = $run AND layer = $layer AND neuron = $neuron

-- name: fed_positions
-- The positions at which a neuron's inputs are stored, each with the input of the largest absolute value there.
SELECT position_id, any_value(token) AS token, any_value(i.activation) AS activation,
       arg_max(struct_pack(component := component::VARCHAR, source_layer, source_head), abs(value)) AS strongest,
       arg_max(value, abs(value)) AS value
FROM neuron_inputs i JOIN positions p USING (run_id, position_id)
WHERE run_id = $run AND layer = $layer::UTINYINT AND neuron = $neuron::UINTEGER AND i.reading = 'pre'
GROUP BY position_id ORDER BY activation DESC, position_id
