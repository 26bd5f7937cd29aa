/* The floor under every container runtime: six namespaces, a root of its own, exec, and nothing else.
   floor ROOTFS PROGRAM; no cgroups, no configuration, no state. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(long result, const char *call) {
    if (result < 0) {
        perror(call);
        _exit(1);
    }
}

static void become(const char *rootfs, char *program[]) {
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount private");
    check(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), "mount rootfs");
    check(chdir(rootfs), "chdir");
    check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount proc");
    check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755"), "mount dev");
    check(mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount sys");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "umount");
    check(chdir("/"), "chdir /");
    execv(program[0], program);
    check(-1, "execv");
}

int main(int argc, char *argv[]) {
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    int status;
    long child = syscall(SYS_clone3, &args, sizeof args);
    check(child, "clone3");
    if (child == 0)
        become(argv[1], argv + 2);
    check(waitpid(child, &status, 0), "waitpid");
    return WEXITSTATUS(status);
}
