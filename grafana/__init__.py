"""Grafana: dashboards as code, Prometheus rules, the runbook, and their checks."""
