-- Spend. US dollars of live calls whose price is known, by model.
SELECT date_trunc('day', start_time) AS time, coalesce(model, response_model, 'unknown') AS series, sum(cost_usd) AS value
FROM llm_calls
WHERE cost_usd > 0
GROUP BY ALL
ORDER BY time, series;
