-- Spend per run. US dollars of a run with live calls.
SELECT date_trunc('day', created) AS time, 'mean' AS series, avg(cost_usd) AS value
FROM traces
WHERE calls > 0 AND cost_usd IS NOT NULL
GROUP BY ALL
UNION ALL
SELECT date_trunc('day', created) AS time, 'p95' AS series, quantile_cont(cost_usd, 0.95) AS value
FROM traces
WHERE calls > 0 AND cost_usd IS NOT NULL
GROUP BY ALL
ORDER BY time, series;
