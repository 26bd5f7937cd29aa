"""OCI's words: images, networks and the runtime. Empty on purpose: the runtime's command starts fast."""
