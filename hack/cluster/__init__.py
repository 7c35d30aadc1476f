"""A real single-node Kubernetes, built from its public Go modules, in namespaces of its own.

`python -m hack.cluster up` starts it. All components but containerd and runc are one binary; the
node lives in its own process, mount, network, IPC and host-name namespaces, so that the host sees
nothing of it but one process and a listener on the API port.
"""
