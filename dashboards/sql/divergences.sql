-- Divergences. Replays that asked for something their trace does not hold.
SELECT date_trunc('day', created) AS time, 'divergences' AS series, count(*) AS value
FROM traces
WHERE trace_id IN (
  SELECT trace_id FROM spans WHERE kind = 'step' AND attributes['escapement.divergence'] IS NOT NULL
)
GROUP BY ALL
ORDER BY time, series;
