-- Replayed and live calls. Calls that a trace answered, and calls that went to a model.
SELECT date_trunc('day', start_time) AS time, if(kind = 'step', 'live', 'replayed') AS series, count(*) AS value
FROM spans
WHERE kind IN ('step', 'served')
GROUP BY ALL
ORDER BY time, series;
