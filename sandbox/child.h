/* The way of a process into its box, after clone and before exec. child.c does it, launch.go lays it out. */
#ifndef SECMCPD_CHILD_H
#define SECMCPD_CHILD_H

#include <linux/filter.h>
#include <stdint.h>

enum { BOX_STEPS = 21 };

/* A mount that belongs to nobody yet, and where it goes. */
struct box_mount {
	int fd;
	const char *target;
};

struct box_limit {
	int resource;
	uint64_t value;
	const char *name;
	int exact;              /* no less will do, though the launcher may have no more */
};

/* Descriptors are the launcher's numbers, -1 for none. Texts outlive the launch. */
struct box {
	/* The wish: the child only reads it. */
	uint64_t namespaces;    /* flags of clone */
	int cgroup;             /* directory to be born into */
	int old_clone;          /* clone3 is not allowed here; there is no cgroup then */
	uint8_t skip[BOX_STEPS];
	int fault, pause;       /* of the tests: a step that fails, one that waits for the launcher's end; -1 */
	int proc;               /* the launcher's /proc; not kept */
	const int *keep;        /* the descriptors below, in order */
	int keep_count;
	int network;            /* namespace to join */
	const struct box_mount *mounts;
	int mount_count;
	const char *directory;  /* to work in */
	const char *host_name;
	const char *scanner;    /* its path in the box; NULL: exe is executed as it is */
	int exe;                /* what was hashed */
	int exec_fd;            /* the one number that may be executed; also the limit of open files */
	const struct box_limit *limits;
	int limit_count;
	uint32_t uid, gid;
	uint32_t capabilities;  /* those kept, as bits */
	int ruleset;            /* of Landlock */
	uint64_t own_rights;    /* on its own /proc/self; 0: the rules have it */
	int launcher;           /* pidfd */
	int standard_output, standard_error;
	struct sock_fprog filter;
	char *const *argv, *const *environment;

	/* What became of it. */
	int pid, pidfd;         /* pid -1: there is no child, error says why */
	int step;               /* the one that it was at */
	int error;              /* of that step */
	const char *what;       /* cannot be done, */
	const char *object;     /* with what */
};

/* The name of a step, NULL past the last. */
const char *box_stage(int step);

/* Starts the child and returns when it has executed the scanner, failed, or died. */
void box_launch(struct box *b);

#endif
