"""Linux in the kernel's own words: namespaces, cgroups, mounts, capabilities and the calls that make them.

Nothing here but the kernel decides: each module reads `/proc`, `/sys/fs/cgroup` or makes a system call.
"""
