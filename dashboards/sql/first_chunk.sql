-- Time to first chunk. How long live streams took to begin.
SELECT date_trunc('day', start_time) AS time, 'p50' AS series, quantile_cont(time_to_first_chunk_ms / 1e3, 0.5) AS value
FROM llm_calls
WHERE time_to_first_chunk_ms IS NOT NULL
GROUP BY ALL
UNION ALL
SELECT date_trunc('day', start_time) AS time, 'p95' AS series, quantile_cont(time_to_first_chunk_ms / 1e3, 0.95) AS value
FROM llm_calls
WHERE time_to_first_chunk_ms IS NOT NULL
GROUP BY ALL
ORDER BY time, series;
