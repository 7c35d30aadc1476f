"""Autoscaling policies on recorded traffic, in one simulation of vLLM servers.

`traces` reads the requests; `roofline` says how long a step of the engine takes; `engine` is one
server; `routing` chooses among them; `cluster` starts, feeds, drains and stops servers as a policy
asks; `policies` holds the operator's own policy and its rivals; `summary` makes figures of a run.
"""
