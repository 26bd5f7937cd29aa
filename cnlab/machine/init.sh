#!/bin/sh
# The private kernel's first program: Python wants /proc, then the rest is Python. See guest.py.
/bin/mount -t proc proc /proc
exec "$CNLAB_PYTHON" "${0%/*}/guest.py"
