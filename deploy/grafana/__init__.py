"""Dashboards as code: ``python -m deploy.grafana.generate`` writes ``dashboards/*.json`` from the modules beside it.

``deploy.grafana.draw`` draws them without Grafana.
"""
