-- title: Skip-trigrams of the corpus that the weights know
-- question: Which source … destination → output have the largest direct effects of heads on the corpus, among those whose output the head's OV circuit raises whenever it attends to that source?
-- why: An opening quotation mark raises the closing one: that stands in the weights already (Elhage et al. 2021), the QK circuit only decides when. ov_rank is the output's place among all tokens that the head raises. Neighbours and copies (output = source) are left out, as induction would fill the list.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), here AS (
    SELECT position_id, token_id, token, next_token_id, next_token
    FROM positions WHERE run_id = (FROM chosen)
), seen AS (
    SELECT s.layer, s.head, source.token_id AS source_token_id, source.token AS source_token,
           p.token AS destination_token, p.next_token_id AS token_id, p.next_token AS output_token,
           count(*) AS places, avg(s.attention) AS attention, avg(s.toward_next) AS toward_next
    FROM head_sources s
    JOIN here p USING (position_id)
    JOIN here source ON source.position_id = s.source_position_id
    WHERE s.run_id = (FROM chosen) AND s.source_position_id < s.position_id - 1
      AND source.token_id <> p.next_token_id
    GROUP BY ALL
)
SELECT s.layer, s.head, s.source_token, s.destination_token, s.output_token, s.places,
       round(s.attention, 4) AS mean_attention, round(s.toward_next, 3) AS mean_toward_next,
       v.rank AS ov_rank, round(v.effect, 2) AS ov_effect
FROM seen s
JOIN head_vocabulary v USING (layer, head, source_token_id, token_id)
JOIN runs r USING (model_id)
WHERE r.run_id = (FROM chosen)
ORDER BY s.places * s.toward_next DESC, s.layer, s.head, s.source_token_id, s.token_id,
         s.destination_token
LIMIT 20
