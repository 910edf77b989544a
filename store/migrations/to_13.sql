-- Upgrade a store from schema version 12 to 13. Before version 13, only GPT-NeoX models could be stored. Version 13
-- adds columns for models of other families: for grouped-query attention, gated neurons, position embeddings other than
-- rotary ones, norms after attention and after the MLP, and soft-caps of the logits.

-- name: model
SELECT *, n_heads AS n_kv_heads, false AS is_gated, 'rotary' AS position_embedding, NULL::FLOAT AS logit_cap, false AS has_post_norms FROM v12.model

-- name: run
SELECT *, NULL::FLOAT AS hf_difference FROM v12.run

-- name: neuron_code
SELECT *, NULL::FLOAT AS mlp_scale FROM v12.neuron_code

-- name: neuron_read
SELECT *, 'pre' AS reading FROM v12.neuron_read

-- name: neuron_weight
SELECT *, NULL::FLOAT AS gate_norm, NULL::FLOAT AS gate_cosine, NULL::FLOAT AS gate_bias FROM v12.neuron_weight

-- name: neuron_occurrence
SELECT *, NULL::FLOAT AS pre_linear, NULL::FLOAT AS linear_closure FROM v12.neuron_occurrence

-- name: neuron_input
SELECT *, 'pre' AS reading FROM v12.neuron_input
