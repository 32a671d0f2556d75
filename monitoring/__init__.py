"""What operators see: dashboards as data, written down for Grafana and drawn without it."""
