"""Images as OCI describes them: blobs, layers, manifests and indexes; read, written, unpacked, compared."""
