"""The operator of ``KVarNDeployment`` resources: observe, plan, render, apply, scale, status."""
