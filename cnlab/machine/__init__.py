"""A Jupyter kernel with its own Linux kernel: root for every student, without a root account.

The notebook's Python runs as root inside User-Mode Linux, which is an ordinary process of an ordinary user::

    Jupyter server ── provisioner ── launcher ──── linux.uml ─────────────────────────┐
                      (provisioner)  (launcher)    │ process 1 (guest) ── ipykernel    │
                                        └─ relay ──┼────── relay                       │
                                                   └───────────────────────────────────┘

``provisioner`` is what Jupyter calls; ``launcher`` is one process beside each machine; ``guest`` is process 1
inside it; ``relay`` carries the kernel's sockets across; ``rootfs`` says what of the host the guest may see;
``uml`` knows the command line and the last words of User-Mode Linux. Where strangers' work is graded, a
worker takes the place of the kernel (`cnlab.grading.workers.machine`), and ``cage`` confines the machine.
"""
