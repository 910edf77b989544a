-- title: How much context a next-token neuron needs
-- question: How many tokens does a neuron need to be as active as in its highest windows, and has a head, an MLP or the token itself the largest share of its pre-activation then?
-- why: A neuron that is active on one token alone has no context to be explained by; one that needs many reads them through heads. Shares are in units of its pre-activation, at the last token of its different prompts, each read alone.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), asked AS (
    SELECT i.run_id, i.layer, i.neuron, i.prompt,
           sum(value) FILTER (component IN ('embed', 'pos_embed')) AS embed,
           sum(value) FILTER (component = 'head') AS heads,
           sum(value) FILTER (component = 'mlp') AS mlps,
           sum(value) FILTER (component IN ('attn_bias', 'mlp_bias', 'b_in')) AS biases
    FROM prompt_inputs i
    WHERE i.run_id = (FROM chosen) AND i.reading = 'pre' -- not the second input of gated neurons
    GROUP BY ALL
)
SELECT layer, neuron, l.is_baseline, l.next_token, count(*) AS prompts,
       median(p.tokens) AS median_tokens, round(avg(p.pre_activation), 3) AS pre_activation,
       round(avg(a.embed), 3) AS embed, round(avg(a.heads), 3) AS heads,
       round(avg(a.mlps), 3) AS mlps, round(avg(a.biases), 3) AS biases
FROM asked a
JOIN prompts p USING (run_id, layer, neuron, prompt)
JOIN next_token_neurons l USING (run_id, layer, neuron)
WHERE p.duplicate_of IS NULL
GROUP BY layer, neuron, l.is_baseline, l.next_token
ORDER BY l.is_baseline, layer, median_tokens, neuron
LIMIT 20
