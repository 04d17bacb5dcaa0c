-- Error rate. The share of live calls that failed.
SELECT date_trunc('day', start_time) AS time, 'errors' AS series, count(error_type) / count(*) AS value
FROM llm_calls
GROUP BY ALL
ORDER BY time, series;
