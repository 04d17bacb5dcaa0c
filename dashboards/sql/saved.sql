-- Money saved. US dollars that calls would have cost that a trace answered.
SELECT date_trunc('day', s.start_time) AS time, coalesce(c.model, c.response_model, 'unknown') AS series, sum(c.cost_usd) AS value
FROM spans s
JOIN llm_calls c ON c.trace_id = s.source_trace_id AND c.step = s.source_step
WHERE s.kind = 'served' AND c.cost_usd > 0
GROUP BY ALL
ORDER BY time, series;
