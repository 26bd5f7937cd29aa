"""What students get wrong in lab 5, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "lets the command replace the entrypoint": Mistake(
        task="process-of",
        changes={
            '(config.get("Entrypoint") or []) + list(command or config.get("Cmd") or [])': (
                'list(command or (config.get("Entrypoint") or []) + (config.get("Cmd") or []))'
            )
        },
        loses="check-args",
        says="got ['-h']",
    ),
    "forgets that programs are looked for in PATH": Mistake(
        task="process-of",
        changes={'{"PATH": DEFAULT_PATH}': "{}"},
        loses="check-env-and-cwd",
        says="got {'env': {}, 'cwd': '/'}",
    ),
    "stacks the layers upside down": Mistake(
        task="mount-layers",
        changes={"reversed(layers)": "layers"},
        loses="check-topmost-layer-wins",
        says="got 'old'",
    ),
    "writes into the topmost layer": Mistake(
        task="mount-layers",
        changes={
            "for path in (rootfs, upper, work):": "upper = layers[-1]\nfor path in (rootfs, work):",
            "reversed(layers)": "reversed(layers[:-1])",
        },
        loses="check-layers-stay-clean",
        says="got changed layers",
        is_alone=True,
    ),
    "leaves it at chroot": Mistake(
        task="enter",
        instead="""
        syscalls.mount(rootfs, rootfs, flags=syscalls.MS_BIND | syscalls.MS_REC)
        os.chroot(rootfs)
        os.chdir("/")
        """,
        loses="check-no-way-out",
        says="to find the container's root",
    ),
    "stays in the directory it came from": Mistake(
        task="enter",
        changes={'os.chdir("/")': 'os.chdir(sorted(os.listdir("/"))[0])'},
        loses="check-enter",
        says="'cwd': ['a']",
        is_alone=True,
    ),
    "leaves the old root mounted": Mistake(
        task="enter",
        instead="""
        syscalls.mount(rootfs, rootfs, flags=syscalls.MS_BIND | syscalls.MS_REC)
        os.makedirs(os.path.join(rootfs, ".old"), exist_ok=True)
        syscalls.pivot_root(rootfs, os.path.join(rootfs, ".old"))
        os.chdir("/")
        """,
        loses="check-old-root-is-gone",
        says="/.old",
    ),
    "shows the host's processes": Mistake(
        task="furnish",
        changes={
            'syscalls.mount("proc", proc, "proc")': (
                'syscalls.mount("/proc", proc, flags=syscalls.MS_BIND | syscalls.MS_REC)'
            )
        },
        loses="check-proc",
        says="expected process 1 alone",
    ),
    "makes files in the place of devices": Mistake(
        task="furnish",
        changes={'syscalls.mount(f"/dev/{name}", f"{dev}/{name}", flags=syscalls.MS_BIND)': "pass"},
        loses="check-devices",
        says="'null': 'no device'",
    ),
    "makes a bind mount read-only in one call": Mistake(
        task="furnish",
        changes={
            'syscalls.mount(f"{proc}/sys", f"{proc}/sys", flags=syscalls.MS_BIND)': (
                'syscalls.mount(f"{proc}/sys", f"{proc}/sys", flags=syscalls.MS_BIND | syscalls.MS_RDONLY)'
            ),
            'syscalls.mount("", f"{proc}/sys", flags=readonly)': "pass",
        },
        loses="check-readonly-paths",
        says="expected 'Read-only file system'",
    ),
    "masks nothing": Mistake(
        task="furnish",
        changes={'syscalls.mount("/dev/null", f"{proc}/kcore", flags=syscalls.MS_BIND)': "pass"},
        loses="check-masked-paths",
        says="got another file",
    ),
    "clears the bounding set alone": Mistake(
        task="confine",
        changes={"syscalls.capset(mask, mask, 0)": "pass"},
        loses="check-confined-now",
        says="in the effective set of the caller",
    ),
    "forgets what execve gives back to root": Mistake(
        task="confine",
        changes={"syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)": "pass"},
        loses="check-confined-after-exec",
        says="in the effective set of the executed",
    ),
    "trusts that an interface stays up": Mistake(
        task="connect",
        changes={'there.set_link("eth0", up=True)': "pass"},
        loses="check-connect",
        says="DOWN",
    ),
    "forgets the loopback": Mistake(
        task="connect",
        changes={'there.set_link("lo", up=True)': "pass"},
        loses="check-loopback",
        says="got 'DOWN'",
    ),
    "hands on the signal as it is": Mistake(
        task="run",
        changes={"return code if code >= 0 else 128 - code": "return code"},
        loses="check-run-limits",
        says="got -9",
    ),
    "has no status for a missing command": Mistake(
        task="run",
        changes={"return 127": "return 1"},
        loses="check-run-status",
        says="expected status 127",
    ),
    "leaves the host its name": Mistake(
        task="run",
        changes={"hostname=hostname": ""},
        loses="check-run-isolation",
        says="'hostname': 'cnlab'",
    ),
    "leaves set-user-id programs their power": Mistake(
        task="run",
        changes={"syscalls.set_no_new_privs()": "pass"},
        loses="check-run-isolation",
        says="'NoNewPrivs': '0'",
    ),
    "never plugs the cable in": Mistake(
        task="run",
        changes={"connect(child.pid, *network)": "pass"},
        loses="check-run-network",
        says="whose first line fetches",
    ),
    "leaves the writable layer behind": Mistake(
        task="run",
        changes={
            "tempfile.TemporaryDirectory() as directory": (
                "contextlib.nullcontext(tempfile.mkdtemp()) as directory"
            )
        },
        loses="check-run-leaves-nothing",
        says="'scratch'",
    ),
}
