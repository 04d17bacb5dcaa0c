-- Runs stopped. Runs that a guard stopped: loops, and budgets that were used up.
SELECT date_trunc('day', created) AS time, 'stopped' AS series, count(*) AS value
FROM traces
WHERE status = 'killed'
GROUP BY ALL
ORDER BY time, series;
