-- Tokens. Tokens of live calls, by type and model.
SELECT date_trunc('day', start_time) AS time, coalesce(model, response_model, 'unknown') || ' input' AS series, sum(input_tokens) AS value
FROM llm_calls
WHERE input_tokens > 0
GROUP BY ALL
UNION ALL
SELECT date_trunc('day', start_time) AS time, coalesce(model, response_model, 'unknown') || ' output' AS series, sum(output_tokens) AS value
FROM llm_calls
WHERE output_tokens > 0
GROUP BY ALL
ORDER BY time, series;
