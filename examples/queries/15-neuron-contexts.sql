-- title: The strongest contexts of a neuron, with their text
-- question: What stands where this neuron is at its most active?
-- why: The classic first look at a neuron, exact over the whole run. It shows the extreme only: the sampled contexts beside the top (query 19) show what is usual.
-- parameters: layer = 2; neuron = 159; run = NULL
SELECT n.rank, round(n.activation::DOUBLE, 3) AS activation, n.position_id, c.before, c.token,
       c.after, n.next_token, round(exp(n.next_logprob), 4) AS next_probability
FROM neuron_contexts($layer, $neuron, run := $run) n,
     LATERAL (FROM context(n.position_id, 12, 6)) c
WHERE n.side = 'high' AND n.rank <= 20
ORDER BY n.rank
