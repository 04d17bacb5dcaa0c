-- Tool calls and failures. Tools that models asked for, and results that were errors.
SELECT date_trunc('day', start_time) AS time, 'calls' AS series, count(*) AS value
FROM tool_calls JOIN llm_calls USING (trace_id, step)
GROUP BY ALL
UNION ALL
SELECT date_trunc('day', start_time) AS time, 'failures' AS series, sum(json_array_length(attributes['escapement.tools.failed'])) AS value
FROM spans
WHERE kind = 'step' AND attributes['escapement.tools.failed'] IS NOT NULL
GROUP BY ALL
ORDER BY time, series;
