"""Model shape, GPU and workload in; a plan, or the reason why there is none, out."""
