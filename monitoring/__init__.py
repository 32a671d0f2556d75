"""Operators' dashboards as data, exported to Grafana and plotted without it."""
