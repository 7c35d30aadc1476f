"""``external.metrics.k8s.io`` and ``custom.metrics.k8s.io``, served by the operator itself.

So a HorizontalPodAutoscaler scales by a resource's demand on a cluster without Prometheus and
without an adapter. The API server forwards requests to this server, which is registered by the
APIServices in ``manifests/metrics-api``. It serves from the operator's start, whoever asks: while
nobody answers for an APIService, the cluster can delete no namespace.
"""
