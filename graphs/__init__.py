"""The application: deployments composed into a graph of stages, behind an ingress that speaks HTTP."""
