"""Where attempts run: worker processes here, on a cluster, and in private kernels."""
