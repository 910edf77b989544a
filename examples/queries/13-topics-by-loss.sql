-- title: Topics by loss
-- question: Which kinds of document does the model find hard?
-- why: A difference between topics is a fact about the data before it is one about the model, so look here before comparing components across them. The topic is a key of the documents' metadata; spread is the standard deviation of the documents' own means.
-- parameters: key = 'topic'; run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), texts AS (
    SELECT coalesce(d.metadata ->> $key, '(none)') AS topic, p.document_id,
           count(*) AS predictions, sum(-p.next_logprob) AS loss,
           count(*) FILTER (p.next_rank = 1) AS correct
    FROM positions p JOIN documents d USING (document_id)
    WHERE p.run_id = (FROM chosen) AND p.next_logprob IS NOT NULL
    GROUP BY topic, p.document_id
)
SELECT topic, count(*) AS documents, sum(predictions)::BIGINT AS predictions,
       round(sum(loss) / sum(predictions), 4) AS mean_loss,
       round(stddev_pop(loss / predictions), 4) AS spread,
       round(sum(correct) / sum(predictions), 4) AS share_right
FROM texts
GROUP BY topic
ORDER BY mean_loss DESC, topic
LIMIT 50
