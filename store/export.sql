-- What belongs to a run, table by table, in the order it is stored in. $run: its number.

-- name: model_of_run
(SELECT model_id FROM base.run WHERE run_id = $run)

-- name: tokenizer
SELECT t.* FROM base.tokenizer t WHERE t.tokenizer_id = (SELECT tokenizer_id FROM base.model WHERE model_id = {model_of_run})

-- name: token
SELECT t.* FROM base.token t WHERE t.tokenizer_id = (SELECT tokenizer_id FROM base.model WHERE model_id = {model_of_run})

-- name: model
SELECT * FROM base.model WHERE model_id = {model_of_run}

-- name: layer_bias
SELECT * FROM base.layer_bias WHERE model_id = {model_of_run}

-- name: corpus
SELECT * FROM base.corpus WHERE corpus_id = (SELECT corpus_id FROM base.run WHERE run_id = $run)

-- name: document
SELECT * FROM base.document WHERE corpus_id = (SELECT corpus_id FROM base.run WHERE run_id = $run)

-- name: passage
SELECT p.* FROM base.passage p SEMI JOIN base.document d
  ON base.document_of_passage(p.passage_id) = d.document_id AND d.corpus_id = (SELECT corpus_id FROM base.run WHERE run_id = $run)

-- name: run
SELECT * FROM base.run WHERE run_id = $run

-- name: shard
SELECT * FROM base.shard WHERE run_id = $run

-- name: position
SELECT * FROM base.position WHERE run_id = $run

-- name: layer_effect
SELECT * FROM base.layer_effect WHERE run_id = $run

-- name: head_effect
SELECT * FROM base.head_effect WHERE run_id = $run

-- name: head_source
SELECT * FROM base.head_source WHERE run_id = $run

-- name: neuron_effect
SELECT * FROM base.neuron_effect WHERE run_id = $run

-- name: neuron_code
SELECT * FROM base.neuron_code WHERE run_id = $run

-- name: neuron_direction
SELECT * FROM base.neuron_direction WHERE model_id = {model_of_run}

-- name: token_direction
SELECT * FROM base.token_direction WHERE model_id = {model_of_run}

-- name: lens
SELECT * FROM base.lens WHERE run_id = $run

-- name: list_candidate
SELECT * FROM base.list_candidate WHERE run_id = $run

-- name: list_entry
SELECT * FROM base.list_entry WHERE run_id = $run

-- name: head_offset
SELECT * FROM base.head_offset WHERE run_id = $run

-- name: list_source
SELECT * FROM base.list_source WHERE run_id = $run

-- name: unit_stat
SELECT * FROM base.unit_stat WHERE run_id = $run

-- name: attention_stat
SELECT * FROM base.attention_stat WHERE run_id = $run

-- name: sample_position
SELECT * FROM base.sample_position WHERE run_id = $run

-- name: sample_row
SELECT * FROM base.sample_row WHERE run_id = $run

-- name: sample_unit
SELECT * FROM base.sample_unit WHERE run_id = $run

-- name: weights
SELECT * FROM base.weights WHERE model_id = {model_of_run}

-- name: neuron_token
SELECT * FROM base.neuron_token WHERE model_id = {model_of_run}

-- name: neuron_weight
SELECT * FROM base.neuron_weight WHERE model_id = {model_of_run}

-- name: neuron_read
SELECT * FROM base.neuron_read WHERE model_id = {model_of_run}

-- name: follower
SELECT * FROM base.follower WHERE model_id = {model_of_run}

-- name: bigram_agreement
SELECT * FROM base.bigram_agreement WHERE run_id = $run

-- name: bigram_distance
SELECT * FROM base.bigram_distance WHERE run_id = $run

-- name: head_output
SELECT * FROM base.head_output WHERE model_id = {model_of_run}

-- name: head_pair
SELECT * FROM base.head_pair WHERE model_id = {model_of_run}

-- name: skip_trigram
SELECT * FROM base.skip_trigram WHERE model_id = {model_of_run}

-- name: head_weight
SELECT * FROM base.head_weight WHERE model_id = {model_of_run}

-- name: head_distance
SELECT * FROM base.head_distance WHERE model_id = {model_of_run}

-- name: composition
SELECT * FROM base.composition WHERE model_id = {model_of_run}

-- name: lookup
SELECT * FROM base.lookup WHERE run_id = $run

-- name: neuron_occurrence
SELECT * FROM base.neuron_occurrence WHERE run_id = $run

-- name: neuron_input
SELECT * FROM base.neuron_input WHERE run_id = $run

-- name: head_prompt
SELECT * FROM base.head_prompt WHERE run_id = $run

-- name: ablation
SELECT * FROM base.ablation WHERE run_id = $run

-- name: explanation
SELECT * FROM base.explanation WHERE run_id = $run

-- name: explanation_answer
SELECT a.* FROM base.explanation_answer a SEMI JOIN (FROM base.explanation WHERE run_id = $run) USING (explanation_id)

-- name: position in logits
-- Terms as other programs want them; files of Parquet are the store's own tables.
SELECT * REPLACE (
    base.logits(embed_next) AS embed_next, base.logits(embed_top) AS embed_top,
    base.logits(bias_next) AS bias_next, base.logits(bias_top) AS bias_top
) FROM base.position WHERE run_id = $run

-- name: layer_effect in logits
SELECT * REPLACE (
    base.logits(attn_next) AS attn_next, base.logits(attn_top) AS attn_top,
    base.logits(mlp_next) AS mlp_next, base.logits(mlp_top) AS mlp_top,
    base.logits(mlp_rest_next) AS mlp_rest_next, base.logits(mlp_rest_top) AS mlp_rest_top
) FROM base.layer_effect WHERE run_id = $run

-- name: head_effect in logits
SELECT * REPLACE (
    base.logits(toward_next) AS toward_next, base.logits(toward_top) AS toward_top
) FROM base.head_effect WHERE run_id = $run
