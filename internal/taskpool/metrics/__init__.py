"""The dealer's HTTP pages. Read-only, and off the loop: a slow client or a slow page never delays a job.

Read `exporter` first: it renders the metrics, each of which is declared where it is counted (`core.metric`).

exporter          every declared metric, for Prometheus
app               which page answers what, as a WSGI application
auth              who may read the pages: `--metrics-auth-file`
server            cheroot on a socket, with deadlines for whole requests
heads             those whose request has not come whole, without a thread
"""
