-- title: Each head's direct effect and the loss
-- question: Which heads have a direct effect that lowers the loss, where the model is right and where it errs?
-- why: The whole change of loss needs a head's effect on every token, which is not stored; exact is the loss in the choice between the next token and the first choice. pair_loss_saved is how many nats that would rise without the head's direct effect, over the model's errors only, so a head whose direct effect is mostly on the first choice must look harmful there. Ablating the head also changes what later layers read, which this leaves out.
-- parameters: run = NULL
WITH chosen AS (
    SELECT coalesce($run, arg_max(run_id, finished)) AS run_id FROM runs WHERE status = 'finished'
), effects AS (
    SELECT h.layer, h.head, h.toward_next, p.next_token_id = p.top_token_id AS is_right,
           p.top_logit - p.next_logit AS lead, h.toward_next - h.toward_top AS margin
    FROM heads h JOIN positions p USING (run_id, position_id)
    WHERE h.run_id = (FROM chosen) AND p.next_token_id IS NOT NULL
)
SELECT layer, head, round(avg(toward_next), 4) AS mean_toward_next,
       round(avg(toward_next) FILTER (is_right), 4) AS where_right,
       round(avg(toward_next) FILTER (NOT is_right), 4) AS where_wrong,
       round(avg(margin) FILTER (NOT is_right), 4) AS margin_where_wrong,
       round(avg(ln(1 + exp(lead + margin)) - ln(1 + exp(lead))) FILTER (NOT is_right), 4)
           AS pair_loss_saved
FROM effects
GROUP BY layer, head
ORDER BY pair_loss_saved DESC, layer, head
LIMIT 50
