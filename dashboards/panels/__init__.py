"""What the dashboards show: the same panels for every place that Escapement's data may be in.

`table` says which panels there are, a module for each language how they are asked for; `grafana` makes dashboards of
that, and `python -m dashboards.panels` (`make dashboards`) writes the files that users load.
"""
